// Package frontend holds the port at which container clients reach a mirror,
// in front of a mirror that may restart or be replaced. A strict client has
// nowhere else to go, so the port must answer at any time: connections wait
// for the mirror, and the listening socket itself goes from one frontend to
// the next without ever being closed.
package frontend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// The sockets in the folder that a mirror and its frontends share.
const (
	// MirrorSocket is where the mirror serves HTTP once it is ready.
	MirrorSocket = "mirror.sock"
	// handoverSocket is where the frontend gives its listening socket away.
	handoverSocket = "handover.sock"
)

const (
	// firstRequest is how long a connection may be silent at its beginning.
	firstRequest = 30 * time.Second
	// stall is how long a client may take nothing of what is sent to it. Later
	// silence is bounded by the mirror, which closes its end.
	stall = time.Minute
	// poll is how often a mirror that is not there is looked for.
	poll = 50 * time.Millisecond
	// maxConns bounds the connections at once.
	maxConns = 4096
)

// Config says where a frontend is and what is behind it.
type Config struct {
	// Addr is IP:PORT for container clients.
	Addr string
	// Former are those at which they came before, and may come until all are told Addr.
	Former []string
	// Dir is the folder that it shares with the mirror and other frontends of
	// the same Addr. It becomes the user's own: who may enter it may take the port.
	Dir string
	// Wait is how long a mirror that does not run is waited for, by all requests
	// that come meanwhile. Those that come later wait no more than a moment.
	Wait time.Duration
	// PortWait is how long the port is waited for while another process has it.
	PortWait time.Duration
	// Succession is how long a frontend that is to end waits for a successor.
	Succession time.Duration
	// Drain is how long connections may go on at the end.
	Drain time.Duration
	// Canary is the mirror's name whose canary it answers for; empty for none.
	Canary string
	Log    *slog.Logger
}

type frontend struct {
	Config
	secret  []byte // by which it proves that this port is this mirror's
	conns   sync.WaitGroup
	formers sync.WaitGroup // what listens at former addresses
	slots   chan struct{}
	end     context.Context // after Drain
	away    away
}

// Run serves until ctx ends and a successor has taken over, or none comes.
func Run(ctx context.Context, c Config) error {
	if err := checkCanary(c.Canary); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(c.Dir, 0o700), os.Chmod(c.Dir, 0o700)); err != nil {
		return fmt.Errorf("preparing the folder of the mirror's sockets: %w", err)
	}
	secret, err := portproof.Secret(c.Dir)
	if err != nil {
		return err
	}
	// Before it has the port, for who asks whose the port is until then.
	relay, err := serveProof(c)
	if err != nil {
		return err
	}
	defer relay.Close()
	listener, former, predecessor, err := takeOver(ctx, c)
	if err != nil {
		return err
	}
	// While this connection is open, the predecessor knows that it has a successor.
	defer predecessor.Close()
	heirs, err := offer(c.Dir, listener, c.Log)
	if err != nil {
		return errors.Join(err, listener.Close(), former.Close())
	}
	defer heirs.close()
	end, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	f := &frontend{Config: c, secret: secret, slots: make(chan struct{}, maxConns), end: end}
	if err := predecessor.confirm(); err != nil {
		c.Log.Warn("the frontend before this one does not know that it has a successor", "error", err)
	}
	c.Log.Info("serving container clients", "address", c.Addr, "taken over", predecessor.Conn != nil)
	failed := make(chan error, 1)
	go func() { failed <- f.accept(listener) }()
	serving, closeFormer := context.WithCancel(end)
	defer closeFormer()
	f.serveFormer(serving, former)
	select {
	case err := <-failed:
		return fmt.Errorf("accepting connections: %w", err)
	case <-ctx.Done():
	}
	heirs.await(c.Succession)
	closeFormer()
	if err := listener.Close(); err != nil { // a successor's copy of the socket stays open
		return fmt.Errorf("ending: %w", err)
	}
	time.AfterFunc(c.Drain, stop)
	<-failed
	f.formers.Wait()
	f.conns.Wait()
	return nil
}

// accept returns when the listener is closed.
func (f *frontend) accept(listener *net.TCPListener) error {
	for {
		f.slots <- struct{}{}
		conn, err := listener.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ECONNABORTED) {
				<-f.slots
				time.Sleep(poll) // others end meanwhile
				continue
			}
			return err
		}
		f.conns.Go(func() {
			defer func() { <-f.slots }()
			defer conn.Close()
			stop := context.AfterFunc(f.end, func() { _ = conn.Close() })
			defer stop()
			f.serve(conn)
		})
	}
}

// boundStall has the kernel end a connection whose other side takes nothing
// for so long (tcp(7), TCP_USER_TIMEOUT). A deadline of Go's would have to be
// renewed between the parts of an answer, which splice(2) passes on unseen.
func boundStall(conn *net.TCPConn, limit time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	return errors.Join(err, set)
}

// serve passes one connection on. Nothing is dialled before the client says
// something, so a connection that only probes the port costs the mirror nothing.
func (f *frontend) serve(client *net.TCPConn) {
	first := make([]byte, 16<<10)
	if err := errors.Join(client.SetReadDeadline(time.Now().Add(firstRequest)), boundStall(client, stall)); err != nil {
		return
	}
	n, err := client.Read(first)
	if err != nil {
		return
	}
	first = first[:n]
	if bytes.HasPrefix(first, []byte("GET "+portproof.Path+"?")) {
		f.prove(client, first)
		return
	}
	if f.answerCanary(client, first) {
		return
	}
	address := &net.UnixAddr{Net: "unix", Name: filepath.Join(f.Dir, MirrorSocket)}
	var deadline time.Time
	for {
		mirror, err := net.DialUnix("unix", nil, address)
		if err == nil {
			again := exchange(client, mirror, first)
			_ = mirror.Close()
			if !again {
				f.away.over()
				return
			}
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = f.away.deadline(now, f.Wait)
		}
		if now.After(deadline) || f.end.Err() != nil {
			f.Log.Warn("refused a request, for the mirror does not run", "error", err)
			_, _ = io.WriteString(client, unavailable(first))
			return
		}
		time.Sleep(poll)
	}
}

// prove answers who asks whether this port is this mirror's. It does so itself:
// the mirror does not know by which port it is reached.
func (f *frontend) prove(client net.Conn, first []byte) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(first)))
	if err != nil {
		return // in parts, as nobody sends it who is to have an answer
	}
	body := portproof.Answer(f.secret, client.LocalAddr().String(), req.URL.Query())
	_ = client.SetWriteDeadline(time.Now().Add(handoverTimeout))
	_, _ = fmt.Fprintf(client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// serveProof passes questions whose port this is on from a socket to the port
// itself, for who sets containerd up in a pod: there the machine's loopback
// address is out of reach.
func serveProof(c Config) (io.Closer, error) {
	// Root without further rights may connect too; the folder is for the mirror's
	// user alone.
	l, err := listenAs(filepath.Join(c.Dir, portproof.SocketFile), 0o666)
	if err != nil {
		return nil, fmt.Errorf("listening for questions whose port it is: %w", err)
	}
	s := &http.Server{Handler: portproof.Relay(c.Addr, c.Former...), ReadHeaderTimeout: handoverTimeout, WriteTimeout: handoverTimeout, IdleTimeout: handoverTimeout}
	go func() { _ = s.Serve(l) }() // until it is closed
	return s, nil
}

// exchange copies both ways until either side ends. It asks to be called
// again, with another mirror, if this one went before it has answered a byte:
// then it was about to end when it was asked. Requests to a mirror only read.
func exchange(client *net.TCPConn, mirror *net.UnixConn, first []byte) (again bool) {
	if err := client.SetReadDeadline(time.Time{}); err != nil {
		return false
	}
	if _, err := mirror.Write(first); err != nil {
		return true
	}
	type end struct {
		n   int64
		err error
	}
	upward := make(chan end, 1)
	go func() {
		n, err := io.Copy(mirror, client)
		// The client has ended, or will not be heard: what it asked for may end too.
		_ = mirror.CloseWrite()
		upward <- end{n, err}
	}()
	answered, _ := io.Copy(client, mirror)
	_ = client.SetReadDeadline(time.Now()) // ends the other direction
	up := <-upward
	return answered == 0 && up.n == 0 && errors.Is(up.err, os.ErrDeadlineExceeded)
}

// unavailable is an answer of the OCI distribution spec ("Error Codes") to
// whatever was asked. After a 503 or 504 clients would ask again at once, and
// wait once more.
func unavailable(request []byte) string {
	body := `{"errors":[{"code":"UNAVAILABLE","message":"the Pyrsia mirror on this node does not run: see its pod, and kubectl describe pyrsianode"}]}`
	head := fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(body))
	if bytes.HasPrefix(request, []byte("HEAD ")) {
		return head
	}
	return head + body
}
