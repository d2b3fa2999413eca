package answers

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Clients that ask for much and read nothing hold a fixed sum of memory, and
// others are answered as before.
func TestSlowReadersHoldAFixedSum(t *testing.T) {
	t.Parallel()
	a := New()
	const size = 1 << 20
	s := httptest.NewServer(a.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) })))
	defer s.Close()
	for i := range 4 * maxHeldBy / size {
		// From another address, so that a share is all that one gets.
		from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(i%2))}}
		c, err := from.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	a.mu.Lock()
	held, by := a.held, fmt.Sprint(a.by)
	a.mu.Unlock()
	if held > 2*maxHeldBy {
		t.Errorf("two addresses hold %d bytes, at most %d: %s", held, 2*maxHeldBy, by)
	}
	resp, err := http.Get(s.URL) // from 127.0.0.1
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusOK || n != size || err != nil {
		t.Errorf("another client: %s, %d bytes, %v", resp.Status, n, err)
	}
}

// What is refused says when to come back; what is too large for anyone's share
// is answered when nothing else is held.
func TestRoomForAnswers(t *testing.T) {
	t.Parallel()
	a := New()
	if !a.take("one", maxHeldBy+1) || a.take("one", 1) || !a.take("two", maxHeldBy) {
		t.Error("the shares are not kept")
	}
	s := httptest.NewServer(a.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(make([]byte, smallBody+1))
	})))
	defer s.Close()
	a.take("127.0.0.1", maxHeldBy)
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") == "application/octet-stream" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	a.give("one", maxHeldBy+1)
	a.give("two", maxHeldBy)
	a.give("127.0.0.1", maxHeldBy)
	if a.held != 0 || len(a.by) != 0 {
		t.Errorf("%d bytes are held by nobody", a.held)
	}
}

// A client with many parallel requests does not make others wait until all of
// them are answered.
func TestManyQuestionsOfOneClientKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	a := New()
	making, done := make(chan struct{}, 4*maxBuilding), make(chan struct{})
	s := httptest.NewServer(a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			making <- struct{}{}
			<-done
		}
	})))
	defer s.Close()
	defer close(done)
	for range 4 * maxBuilding {
		from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, 1)}}
		c, err := from.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	<-making
	time.Sleep(200 * time.Millisecond) // they all wait
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(s.URL + "/small") // from 127.0.0.1
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n := len(making); n >= maxBuilding {
		t.Errorf("%d answers are made at once for one client", n)
	}
}
