package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// brief stands for the time-outs that a server has.
const brief = 300 * time.Millisecond

func serve(t *testing.T, h http.Handler, b Bounds) (*Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bounded := Limit(l, b, slog.New(slog.NewTextHandler(t.Output(), nil)))
	s := New(h)
	s.Handler = timely(pace(h, brief), brief)
	go func() { _ = s.Serve(bounded) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	return bounded, l.Addr().String()
}

func dial(t *testing.T, addr, say string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, _ = io.WriteString(c, say) // it may be refused
	return c
}

// stillOpen tells whether the other side has not closed a connection within a while.
func stillOpen(c net.Conn, within time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, c)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

var notFound = http.NotFoundHandler()

// A post whose body never comes ends, even if no handler reads the body.
func TestIdlePostsEnd(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.Handler{
		"not read": notFound,
		"read":     http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }),
	} {
		_, addr := serve(t, h, Bounds{Total: 100})
		for _, header := range []string{"Content-Length: 9", "Transfer-Encoding: chunked"} {
			c := dial(t, addr, "POST / HTTP/1.1\r\nHost: x\r\n"+header+"\r\n\r\n")
			if stillOpen(c, 10*brief) {
				t.Errorf("%s, %s: the connection stays open", name, header)
			}
		}
	}
}

// An answer may take as long as it likes after its request's body has ended,
// and a client as long as it takes something.
func TestSlowButHonest(t *testing.T) {
	t.Parallel()
	content := make([]byte, 3*filePart)
	for i := range content {
		content[i] = byte(i >> 12)
	}
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		select {
		case <-time.After(2 * brief):
		case <-r.Context().Done():
			t.Error("a request was ended while its answer was made")
		}
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	}), Bounds{Total: 100})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr, bytes.NewReader([]byte("body")))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: slowDial}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h, began := sha256.New(), time.Now()
	for {
		if _, err = io.CopyN(h, resp.Body, 512<<10); err != nil {
			break
		}
		time.Sleep(brief / 2)
	}
	if !errors.Is(err, io.EOF) || !bytes.Equal(h.Sum(nil), sum(content)) || time.Since(began) < 2*brief {
		t.Errorf("after %s: %v, or other bytes", time.Since(began), err)
	}
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// A client that takes nothing is cut off, whatever the answer comes from.
func TestStalledReadersAreCutOff(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, src := range map[string]func(w io.Writer) error{
		"file": func(w io.Writer) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.CopyN(w, f, 64<<20)
			return err
		},
		"memory": func(w io.Writer) error { _, err := w.Write(make([]byte, 64<<20)); return err },
		"reader": func(w io.Writer) error {
			_, err := io.CopyN(w, struct{ io.Reader }{bytes.NewReader(make([]byte, 64<<20))}, 64<<20)
			return err
		},
	} {
		ended := make(chan error, 1)
		_, addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { ended <- src(w) }), Bounds{Total: 100})
		dial(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", kind, err)
			}
		case <-time.After(20 * brief):
			t.Errorf("%s: the answer waits for a client that takes nothing", kind)
		}
	}
}

// Connections beyond the bounds are closed immediately, and slots are freed
// when others end.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	l, addr := serve(t, notFound, Bounds{Total: 5, PerAddress: 3})
	var held []net.Conn
	for range 3 {
		held = append(held, dial(t, addr, ""))
	}
	for _, c := range held {
		if !stillOpen(c, 50*time.Millisecond) {
			t.Fatal("a connection within the bounds is refused")
		}
	}
	if stillOpen(dial(t, addr, ""), 10*brief) {
		t.Error("one address has more than its share")
	}
	var others []net.Conn
	for i := range 3 {
		from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}
		c, err := from.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		others = append(others, c)
	}
	for i, c := range others {
		if open := stillOpen(c, 200*time.Millisecond); open != (i < 2) {
			t.Errorf("connection %d of 6: open %v", 4+i, open)
		}
	}
	if got := l.Refused(); got != 2 {
		t.Errorf("%d were refused, want 2", got)
	}
	for _, c := range append(held, others...) {
		_ = c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		left := fmt.Sprint(l.open, len(l.of))
		l.mu.Unlock()
		if left == "0 0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("connections that ended are still counted: %s", left)
		}
	}
}

// slowDial gives connections whose receive buffer is small, so that what a
// client does not read waits at the server.
func slowDial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	return c, err
}
