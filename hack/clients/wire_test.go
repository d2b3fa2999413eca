package clients

import (
	"io"
	"net"
	"sync"
	"testing"
)

// wire is the connection between the clients and the mirror. It can be cut.
type wire struct {
	addr string
	to   string

	mu    sync.Mutex // guards what follows
	left  int64      // bytes to the client until the cut; negative: none
	onCut func()
	conns map[net.Conn]bool
}

func startWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{addr: l.Addr().String(), to: to, left: -1, conns: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(conn)
		}
	}()
	return w
}

// cutAfter cuts all connections, once, when so many bytes more have passed.
// then is called before the clients notice.
func (w *wire) cutAfter(n int64, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.onCut = n, then
}

// cut tells whether the last one that was ordered took place.
func (w *wire) wasCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left < 0
}

func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer server.Close()
	w.mu.Lock()
	w.conns[client] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.conns, client)
		w.mu.Unlock()
	}()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 {
			if w.passed(int64(n)) {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// passed counts bytes, and cuts when it is time.
func (w *wire) passed(n int64) (cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left < 0 {
		return false
	}
	if w.left -= n; w.left >= 0 {
		return false
	}
	w.left = -1
	if w.onCut != nil {
		w.onCut()
	}
	for c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return true
}
