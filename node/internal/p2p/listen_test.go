package p2p

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// A port that can be had for TCP or QUIC alone is an error that says which.
func TestHalfAPortIsAnError(t *testing.T) {
	for _, taken := range []string{"tcp", "udp", ""} {
		port, release := takePort(t, taken)
		tcp, quic := fmt.Sprint("/ip4/127.0.0.1/tcp/", port), fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port)
		h, err := New(t.Context(), Config{
			KeyFile: filepath.Join(t.TempDir(), "key"), Listen: []string{tcp, quic}, Network: "ledger.example/listen",
			Essence: func(b []byte) ([]byte, error) { return b, nil }, Check: func([]byte) error { return nil },
			Holds: func(digest.Digest) bool { return true }, Joined: func() {}, OnCheckpoint: func(peer.ID) {}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		err = h.Start(http.NotFoundHandler())
		switch want := map[string]string{"tcp": tcp, "udp": quic}[taken]; {
		case taken == "" && err != nil:
			t.Errorf("a free port: %v", err)
		case taken != "" && (err == nil || !strings.Contains(err.Error(), "listening for peers at "+want)):
			t.Errorf("%s is taken: %v", taken, err)
		}
		_ = h.Close()
		release()
	}
}

// takePort finds a port that is free for TCP and UDP, and takes one of them.
func takePort(t *testing.T, network string) (port int, release func()) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			_ = l.Close()
			continue
		}
		if network != "tcp" {
			_ = l.Close()
		}
		if network != "udp" {
			_ = u.Close()
		}
		return port, func() { _, _ = l.Close(), u.Close() }
	}
	t.Fatal("no port is free for TCP and UDP")
	return 0, nil
}
