package socketproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// handoverTimeout bounds each message between two proxies.
const handoverTimeout = 5 * time.Second

// predecessor is the proxy that served before this one; its Conn is nil if there
// is none.
type predecessor struct{ net.Conn }

func (p predecessor) Close() error {
	if p.Conn == nil {
		return nil
	}
	return p.Conn.Close()
}

// confirm tells the predecessor that this proxy serves.
func (p predecessor) confirm() error {
	if p.Conn == nil {
		return nil
	}
	_, err := p.Write([]byte{1})
	return err
}

// takeOver gets the listening socket from the running proxy, or opens it if none
// runs for that address. A socket at a former address is kept too.
func takeOver(ctx context.Context, c Config) (_ *net.TCPListener, former formerSocket, _ predecessor, _ error) {
	listener, before, err := receive(filepath.Join(c.Dir, handoverSocket))
	switch {
	case err == nil && listener.Addr().String() == c.Addr:
		return listener, former, before, nil
	case err == nil && slices.Contains(c.Former, listener.Addr().String()):
		former.TCPListener = listener
	case err == nil: // it is about to go, and with it the old address
		_ = listener.Close()
		_ = before.Close()
		before = predecessor{}
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		c.Log.Warn("cannot take over from the socket proxy that runs", "error", err)
	}
	l, err := listen(ctx, c)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w: another program or another PyrsiaNode has it: set spec.mirror.port to another one", err)
	}
	if err != nil {
		return nil, former, predecessor{}, errors.Join(fmt.Errorf("listening for container clients: %w", err), former.Close(), before.Close())
	}
	return l.(*net.TCPListener), former, before, nil
}

// listen opens the port, and waits for it while another process has it.
func listen(ctx context.Context, c Config) (net.Listener, error) {
	for end := time.Now().Add(c.PortWait); ; {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(poll):
		}
	}
}

// receive asks the proxy at the socket for its listener.
func receive(socket string) (_ *net.TCPListener, before predecessor, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return nil, before, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, before, err
	}
	oob := make([]byte, syscall.CmsgSpace(4)) // one file descriptor
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, before, fmt.Errorf("receiving the listening socket: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err == nil && len(messages) != 1 {
		err = fmt.Errorf("%d messages with it", len(messages))
	}
	if err != nil {
		return nil, before, fmt.Errorf("receiving the listening socket: %w", err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("%d descriptors in it", len(fds))
	}
	if err != nil {
		return nil, before, fmt.Errorf("receiving the listening socket: %w", err)
	}
	file := os.NewFile(uintptr(fds[0]), "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, before, fmt.Errorf("using the listening socket: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, before, fmt.Errorf("using the listening socket: it is a %T", l)
	}
	return tcp, predecessor{conn}, conn.SetDeadline(time.Time{})
}

// successors offers the listening socket to the proxies that come after this
// one.
type successors struct {
	offer *net.UnixListener
	alive chan struct{} // a successor has confirmed and not ended

	mu    sync.Mutex
	conns map[net.Conn]struct{} // owned by mu
}

// listenAs listens at a socket's path, replacing the previous listener.
func listenAs(socket string, mode os.FileMode) (*net.UnixListener, error) {
	mine := fmt.Sprintf("%s.%d.%d", socket, os.Getpid(), time.Now().UnixNano())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: mine})
	if err != nil {
		return nil, err
	}
	// The path belongs to the process that renamed last. Crash before: a useless
	// socket that is never opened. Not synced: after a power cut no socket works
	// anyway.
	l.SetUnlinkOnClose(false)
	err = os.Chmod(mine, mode)
	if err == nil {
		err = os.Rename(mine, socket)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// offer takes the place of the previous proxy in dir.
func offer(dir string, listener *net.TCPListener, log *slog.Logger) (*successors, error) {
	l, err := listenAs(filepath.Join(dir, handoverSocket), 0o600)
	if err != nil {
		return nil, fmt.Errorf("offering the listening socket: %w", err)
	}
	s := &successors{offer: l, alive: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			if err := s.give(conn, listener); err != nil {
				log.Warn("giving the listening socket to a successor", "error", err)
			}
		}
	}()
	return s, nil
}

func (s *successors) give(conn *net.UnixConn, listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, sent, conn.SetReadDeadline(time.Now().Add(handoverTimeout))); err != nil {
		return errors.Join(err, conn.Close())
	}
	s.mu.Lock()
	s.conns[conn] = struct{}{}
	s.mu.Unlock()
	go s.watch(conn)
	return nil
}

// watch tells await about a successor that has confirmed.
func (s *successors) watch(conn net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		_ = conn.Close()
	}()
	var one [1]byte
	if _, err := conn.Read(one[:]); err != nil || conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() { _, _ = conn.Read(one[:]); close(gone) }()
	select {
	case s.alive <- struct{}{}: // taken by await
	case <-gone:
	}
	<-gone
}

// await waits for a successor, at most for so long.
func (s *successors) await(limit time.Duration) {
	select {
	case <-s.alive:
	case <-time.After(limit):
	}
}

func (s *successors) close() {
	_ = s.offer.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}
