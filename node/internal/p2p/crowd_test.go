package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// member is a node of the network "crowd" on loopback.
func member(t *testing.T, listen multiaddr.Multiaddr, key string, bootstrap ...string) *Host {
	t.Helper()
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	return serving(t, ok, listen, key, bootstrap...)
}

// serving is a peer that serves with the given handler.
func serving(t *testing.T, handler http.Handler, listen multiaddr.Multiaddr, key string, bootstrap ...string) *Host {
	t.Helper()
	h, err := New(t.Context(), Config{
		KeyFile: key, Listen: []string{listen.String()}, Bootstrap: bootstrap, Network: "crowd",
		Essence: func(b []byte) ([]byte, error) { return b, nil }, Check: func([]byte) error { return nil },
		Holds: func(digest.Digest) bool { return true }, Joined: func() {}, OnCheckpoint: func(peer.ID) {},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(handler); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func anyPort(t *testing.T) multiaddr.Multiaddr { return multiaddr.StringCast("/ip4/127.0.0.1/tcp/0") }

// stranger is an identity that has nothing to do with the network but its
// protocols' names.
func stranger(t *testing.T, to *Host) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ConnectionGater(onlyTo(to.ID())), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	h.SetStreamHandler(to.httpProtocol(), func(s network.Stream) { _ = s.Reset() })
	eventually(t, "a stranger is not connected", func() bool {
		_ = h.Connect(t.Context(), peer.AddrInfo{ID: to.ID(), Addrs: to.host.Addrs()}) // again, if it was sent away before it had said its protocols
		_, ok := to.Peer(h.ID())
		return ok
	})
	return h
}

// ask asks a node as a peer does.
func ask(ctx context.Context, from *Host, to peer.ID, path string) error {
	p, ok := from.Peer(to)
	if !ok {
		return fmt.Errorf("%s is not connected", to)
	}
	resp, _, err := p.Get(ctx, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.ReadAll(resp.Body)
	return err
}

// holdStream opens a stream, sends the beginning of a request and leaves it
// open.
func holdStream(t *testing.T, from host.Host, to *Host, request string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := from.NewStream(ctx, to.ID(), to.httpProtocol())
	if err != nil {
		return false
	}
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(s, request); err != nil {
		return false
	}
	if strings.HasSuffix(request, "\r\n\r\n") {
		_, err = s.Read(make([]byte, 64))
	}
	return err == nil && s.SetDeadline(time.Time{}) == nil
}

// Peers that open streams and leave them open keep no other peer out, and do not
// keep the node from asking others.
func TestHeldStreamsKeepNobodyOut(t *testing.T) {
	for name, request := range map[string]string{
		"between two requests": "GET /checkpoint HTTP/1.1\r\nHost: node\r\n\r\n",
		"in a request":         "GET /checkpoint HTTP/1.1\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			node := member(t, anyPort(t), filepath.Join(t.TempDir(), "key"))
			open := 0
		fill:
			for range 24 {
				h := stranger(t, node)
				for i := range 60 {
					if !holdStream(t, h, node, request) {
						// The node has ended this connection: once more, and not too far.
						for h = stranger(t, node); i > 1; i-- {
							holdStream(t, h, node, request)
						}
						break fill
					}
					open++
				}
			}
			t.Logf("%d streams were opened", open)
			honest := member(t, anyPort(t), filepath.Join(t.TempDir(), "key"), node.host.Addrs()[0].String()+"/p2p/"+node.ID().String())
			for _, way := range []struct{ from, to *Host }{{honest, node}, {node, honest}} {
				eventually(t, "nobody is answered", func() bool {
					err := ask(t.Context(), way.from, way.to.ID(), "/checkpoint")
					return err == nil
				})
			}
		})
	}
}

// A node goes on to dial the peers that it was configured with, however many
// others are connected.
func TestStrangersKeepNoNodeFromItsBootstrap(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	publisher := member(t, anyPort(t), key)
	addr, id := publisher.host.Addrs()[0], publisher.ID()
	node := member(t, anyPort(t), filepath.Join(t.TempDir(), "key"), addr.String()+"/p2p/"+id.String())
	connected := func() bool { _, ok := node.Peer(id); return ok }
	eventually(t, "the publisher is not reached", connected)
	for range 2 * enoughPeers {
		stranger(t, node)
	}
	if err := publisher.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the publisher is still connected", func() bool { return !connected() })
	member(t, addr, key)
	eventually(t, "the publisher is not reached again", connected)
}

// However many identities come from one address, what they are slow to take is
// one client's share, and others are answered.
func TestIdentitiesOfOneAddressHaveOneShare(t *testing.T) {
	skey, _, err := ledger.GenerateKey("ledger.example/crowd")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	const blocks = 32
	for i := range blocks {
		if _, err := w.Append(t.Context(), largeBlock(i)); err != nil {
			t.Fatal(err)
		}
	}
	node := serving(t, w.Handler(), anyPort(t), filepath.Join(t.TempDir(), "key"))
	path := fmt.Sprintf("/api/v1/entries/0?n=%d", blocks)
	for range 6 {
		h := stranger(t, node)
		for range 16 {
			holdStream(t, h, node, "GET "+path+" HTTP/1.1\r\nHost: node\r\n\r\n")
		}
	}
	elsewhere := multiaddr.StringCast("/ip4/127.0.0.2/tcp/0")
	honest := member(t, elsewhere, filepath.Join(t.TempDir(), "key"), node.host.Addrs()[0].String()+"/p2p/"+node.ID().String())
	eventually(t, "the node is not connected", func() bool { _, ok := honest.Peer(node.ID()); return ok })
	if err := ask(t.Context(), honest, node.ID(), path); err != nil {
		t.Errorf("a peer at another address: %v", err)
	}
}

// largeBlock makes an entry that is about as large as one may be.
func largeBlock(i int) *ledger.AddArtifact {
	name := fmt.Sprint("docker.io/library/image:", i)
	d := digest.FromString(name)
	e := &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: name, Digest: d, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Pieces: d, Upstream: "registry.example", Time: time.Unix(int64(i), 0).UTC(),
	}
	for range 128 {
		e.Platforms = append(e.Platforms, ledger.Platform{Platform: "linux/amd64", Digest: d, Config: d, Size: 1})
	}
	return e
}
