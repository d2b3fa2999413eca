package clients

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// wire is the connection between the clients and the mirror. It can be cut.
type wire struct {
	addr string
	to   string

	door     sync.Mutex   // guards listener
	listener net.Listener // nil: connections are refused

	mu    sync.Mutex // guards what follows
	left  int64      // bytes to the client until the cut; negative: none
	reset bool       // the cut resets all connections
	onCut func()
	conns map[net.Conn]bool
}

func startWire(t *testing.T, to string) *wire {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: addr, to: to, left: -1, conns: map[net.Conn]bool{}}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// open lets clients in, again if it was closed.
func (w *wire) open() error {
	w.door.Lock()
	defer w.door.Unlock()
	if w.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		return err
	}
	w.listener = l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(conn)
		}
	}()
	return nil
}

// close has the port refuse connections, as that of a mirror that does not run.
func (w *wire) close() {
	w.door.Lock()
	defer w.door.Unlock()
	if w.listener != nil {
		w.listener.Close()
		w.listener = nil
	}
}

// cutAfter cuts all connections, once, when so many bytes more have passed.
// then is called before the clients notice.
func (w *wire) cutAfter(n int64, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.reset, w.onCut = n, true, then
}

// callAfter calls then, once, when so many bytes more have passed, which goes no
// further meanwhile.
func (w *wire) callAfter(n int64, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.reset, w.onCut = n, false, then
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
	if !w.reset {
		return false
	}
	for c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return true
}
