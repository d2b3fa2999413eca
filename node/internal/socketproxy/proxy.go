// Package socketproxy holds the port at which container clients reach a mirror,
// while the mirror behind it restarts or is replaced. A strict client has no
// second registry to ask, so the port must always answer: connections wait for
// the mirror, and the listening socket is handed from one proxy to the next
// without ever being closed. It may import node/canary, portproof and durable;
// the command 'pyrsia frontend' in node/cli runs it.
package socketproxy

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

// The sockets in the folder that a mirror and its proxies share.
const (
	// MirrorSocket is where the mirror serves HTTP once it is ready.
	MirrorSocket = "mirror.sock"
	// handoverSocket is where the proxy gives its listening socket away.
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
	// maxConns bounds the open connections.
	maxConns = 4096
)

// Config says where a proxy is and what is behind it.
type Config struct {
	// Addr is IP:PORT for container clients.
	Addr string
	// Former are earlier addresses, at which clients may still connect until all are
	// configured with Addr.
	Former []string
	// Dir is the folder that it shares with the mirror and with other proxies of
	// the same Addr. Its mode becomes 0700: a process that may enter it can take
	// the port over.
	Dir string
	// Wait is how long requests together wait for a mirror that is down. Those
	// that come later wait only for a moment.
	Wait time.Duration
	// PortWait is how long the port is waited for while another process has it.
	PortWait time.Duration
	// Succession is how long a proxy that is to end waits for a successor.
	Succession time.Duration
	// Drain is how long connections may go on at the end.
	Drain time.Duration
	// Canary is the mirror's name whose canary it answers for; empty for none.
	Canary string
	Log    *slog.Logger
}

type proxy struct {
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
	// This comes before the port, so that questions about who holds it are
	// answered until then.
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
	successors, err := offer(c.Dir, listener, c.Log)
	if err != nil {
		return errors.Join(err, listener.Close(), former.Close())
	}
	defer successors.close()
	end, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	p := &proxy{Config: c, secret: secret, slots: make(chan struct{}, maxConns), end: end}
	if err := predecessor.confirm(); err != nil {
		c.Log.Warn("the socket proxy before this one does not know that it has a successor", "error", err)
	}
	c.Log.Info("serving container clients", "address", c.Addr, "taken over", predecessor.Conn != nil)
	failed := make(chan error, 1)
	go func() { failed <- p.accept(listener) }()
	serving, closeFormer := context.WithCancel(end)
	defer closeFormer()
	p.serveFormer(serving, former)
	select {
	case err := <-failed:
		return fmt.Errorf("accepting connections: %w", err)
	case <-ctx.Done():
	}
	successors.await(c.Succession)
	closeFormer()
	if err := listener.Close(); err != nil { // a successor's copy of the socket stays open
		return fmt.Errorf("ending: %w", err)
	}
	time.AfterFunc(c.Drain, stop)
	<-failed
	p.formers.Wait()
	p.conns.Wait()
	return nil
}

// accept returns when the listener is closed.
func (p *proxy) accept(listener *net.TCPListener) error {
	for {
		p.slots <- struct{}{}
		conn, err := listener.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ECONNABORTED) {
				<-p.slots
				time.Sleep(poll) // others end meanwhile
				continue
			}
			return err
		}
		p.conns.Go(func() {
			defer func() { <-p.slots }()
			defer conn.Close()
			stop := context.AfterFunc(p.end, func() { _ = conn.Close() })
			defer stop()
			p.serve(conn)
		})
	}
}

// boundStall makes the kernel close a connection whose other side takes nothing
// for that long (tcp(7), TCP_USER_TIMEOUT). A Go deadline would have to be
// renewed between the parts of an answer, which splice(2) forwards without user
// code.
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
func (p *proxy) serve(client *net.TCPConn) {
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
		p.prove(client, first)
		return
	}
	if p.answerCanary(client, first) {
		return
	}
	address := &net.UnixAddr{Net: "unix", Name: filepath.Join(p.Dir, MirrorSocket)}
	var deadline time.Time
	for {
		mirror, err := net.DialUnix("unix", nil, address)
		if err == nil {
			again := exchange(client, mirror, first)
			_ = mirror.Close()
			if !again {
				p.away.over()
				return
			}
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = p.away.deadline(now, p.Wait)
		}
		if now.After(deadline) || p.end.Err() != nil {
			p.Log.Warn("refused a request, for the mirror does not run", "error", err)
			_, _ = io.WriteString(client, unavailable(first))
			return
		}
		time.Sleep(poll)
	}
}

// prove answers the question whether this port is this mirror's. The proxy does
// so itself, because the mirror does not know by which port it is reached.
func (p *proxy) prove(client net.Conn, first []byte) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(first)))
	if err != nil {
		return // in parts: portproof.Check sends it in one
	}
	body := portproof.Answer(p.secret, client.LocalAddr().String(), req.URL.Query())
	_ = client.SetWriteDeadline(time.Now().Add(handoverTimeout))
	_, _ = fmt.Fprintf(client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// serveProof forwards questions about the holder of the port from a socket to
// the port, for the containers that set containerd up: they cannot reach the
// machine's loopback address.
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

// unavailable is an error response of the OCI distribution spec ("Error Codes")
// to any request. After a 503 or 504 clients would retry immediately, and wait
// once more.
func unavailable(request []byte) string {
	body := `{"errors":[{"code":"UNAVAILABLE","message":"the Pyrsia mirror on this node does not run: see its pod, and kubectl describe pyrsianode"}]}`
	head := fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(body))
	if bytes.HasPrefix(request, []byte("HEAD ")) {
		return head
	}
	return head + body
}
