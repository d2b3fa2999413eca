package socketproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// The port of another PyrsiaNode is not shared, and the error says what to do.
func TestPortOfAnother(t *testing.T) {
	c := config(t, folder(t))
	start(t, c)
	awaitPort(t, c.Addr)
	other := c
	other.Dir = folder(t)
	err := Run(t.Context(), other)
	if err == nil || !strings.Contains(err.Error(), "set spec.mirror.port") {
		t.Errorf("got %v", err)
	}
}

// A proxy that is given another port listens there, and the old one ends.
func TestPortChanges(t *testing.T) {
	dir := folder(t)
	before := config(t, dir)
	stop := start(t, before)
	awaitPort(t, before.Addr)
	mirror(t, dir, say("bytes"))
	after := before
	after.Addr = freeAddr(t)
	start(t, after)
	awaitPort(t, after.Addr)
	if status, body, err := get(t.Context(), http.DefaultClient, "http://"+after.Addr+"/"); err != nil || body != "bytes" {
		t.Errorf("%d %q, %v", status, body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if conn, err := net.Dial("tcp", before.Addr); err == nil {
		_ = conn.Close()
		t.Error("the old port is still open")
	}
}

// A proxy with a new port also serves at the former one, while it is configured to:
// no client of either is refused, even when another proxy with both ports takes
// over. Each port proves whose it is.
func TestFormerPortAnswers(t *testing.T) {
	dir := folder(t)
	before := config(t, dir)
	before.Succession = 2 * time.Second
	stop := start(t, before)
	awaitPort(t, before.Addr)
	mirror(t, dir, say("bytes"))
	after := before
	after.Addr, after.Former = freeAddr(t), []string{before.Addr}
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	var client sync.WaitGroup
	client.Go(func() {
		for ctx.Err() == nil {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			if _, body, err := get(ctx, c, "http://"+before.Addr+"/"); body != "bytes" && ctx.Err() == nil {
				t.Errorf("the port before answers %q, %v", body, err)
				return
			}
			asked.Add(1)
		}
	})
	stopSecond := start(t, after)
	awaitPort(t, after.Addr)
	stop()
	for n := asked.Load(); asked.Load() < n+50; {
		time.Sleep(time.Millisecond)
	}
	cancel()
	client.Wait()
	secret, err := portproof.ReadSecret(filepath.Join(dir, portproof.SecretFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{before.Addr, after.Addr} {
		if err := portproof.Check(t.Context(), "http://"+addr, secret, filepath.Join(dir, portproof.SocketFile), time.Second); err != nil {
			t.Errorf("%s, by the socket: %v", addr, err)
		}
		if err := portproof.Check(t.Context(), "http://"+addr, secret, "", time.Second); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// The next one has the port before as soon as this one has ended.
	start(t, after)
	stopSecond()
	awaitPort(t, before.Addr)
	if _, body, err := get(t.Context(), http.DefaultClient, "http://"+before.Addr+"/"); body != "bytes" {
		t.Errorf("the port before answers %q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// The set-up of containerd can tell this port from any other process's, even
// while the mirror is down and after a successor has taken over.
func TestThePortProvesWhoseItIs(t *testing.T) {
	c := config(t, folder(t))
	stop := start(t, c)
	awaitPort(t, c.Addr)
	secret, err := portproof.ReadSecret(filepath.Join(c.Dir, portproof.SecretFile))
	if err != nil {
		t.Fatal(err)
	}
	check := func(c Config) error {
		socket := filepath.Join(c.Dir, portproof.SocketFile)
		return errors.Join(portproof.Check(t.Context(), "http://"+c.Addr, secret, "", 0), portproof.Check(t.Context(), "http://"+c.Addr, secret, socket, 0))
	}
	if err := check(c); err != nil {
		t.Error(err)
	}
	start(t, c)
	stop()
	if err := check(c); err != nil {
		t.Errorf("of the successor: %v", err)
	}
	other := config(t, folder(t))
	start(t, other)
	awaitPort(t, other.Addr)
	if err := check(other); err == nil {
		t.Error("another mirror's frontend passed for this one's")
	}
}

// A port that another process holds is waited for, and questions about its holder
// are answered in the meantime.
func TestPortIsWaitedFor(t *testing.T) {
	c := config(t, folder(t))
	foreign, err := net.Listen("tcp", c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(foreign, say("mine")) }()
	c.PortWait = time.Minute
	start(t, c)
	secret, err := portproof.Secret(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	whose := func(wait time.Duration) error {
		return portproof.Check(t.Context(), "http://"+c.Addr, secret, filepath.Join(c.Dir, portproof.SocketFile), wait)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(poll) { // until it runs
		wrong, ok := errors.AsType[*portproof.Error](whose(0))
		if ok && wrong.Foreign {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("another process has the port, and it says %v", wrong)
		}
	}
	if err := foreign.Close(); err != nil {
		t.Fatal(err)
	}
	if err := whose(20 * time.Second); err != nil {
		t.Errorf("the port is free: %v", err)
	}
}
