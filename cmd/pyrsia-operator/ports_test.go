package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// The kubelet and Prometheus find what they look for, also while somebody
// holds as many connections as he gets.
func TestPortsAnswerDuringAFlood(t *testing.T) {
	runnables, err := ports(t.Context(), config{metricsAddr: "127.0.0.1:0", healthAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	for i, paths := range [][]string{{"/metrics"}, {"/healthz", "/readyz", "/readyz/ping"}} {
		s := runnables[i].(*manager.Server)
		go func() { _ = s.Server.Serve(s.Listener) }() // until it is closed
		t.Cleanup(func() { _ = s.Server.Close() })
		addr := s.Listener.Addr().String()
		for _, path := range paths {
			resp, err := http.Get("http://" + addr + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || path == "/metrics" && !strings.Contains(string(body), "go_goroutines") {
				t.Errorf("%s: %s %.100s", path, resp.Status, body)
			}
		}
		var held []net.Conn
		for range 2 * portBounds.PerAddress {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") // it may be refused
			held = append(held, c)
		}
		open := 0
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until those that are too many are closed
			open = 0
			for _, c := range held {
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					open++
				}
			}
			if open <= portBounds.PerAddress || time.Now().After(end) {
				break
			}
		}
		if open == 0 || open > portBounds.PerAddress {
			t.Errorf("one address has %d connections, at most %d", open, portBounds.PerAddress)
		}
	}
}
