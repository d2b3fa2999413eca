package frontend

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

// handoverTimeout bounds each message between two frontends.
const handoverTimeout = 5 * time.Second

// predecessor is the frontend before this one; its Conn is nil if there is none.
type predecessor struct{ net.Conn }

func (p predecessor) Close() error {
	if p.Conn == nil {
		return nil
	}
	return p.Conn.Close()
}

// confirm tells the predecessor that this frontend serves.
func (p predecessor) confirm() error {
	if p.Conn == nil {
		return nil
	}
	_, err := p.Write([]byte{1})
	return err
}

// takeOver gets the listening socket from the frontend that runs, or opens it
// when none runs for that address. The socket of one at a former address is kept
// too.
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
		c.Log.Warn("cannot take over from the frontend that runs", "error", err)
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

// receive asks the frontend at the socket for its listener.
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

// heirs offers the listening socket to the frontends that come after this one.
type heirs struct {
	offer *net.UnixListener
	alive chan struct{} // a successor has confirmed and not ended

	mu    sync.Mutex
	conns map[net.Conn]struct{} // owned by mu
}

// listenAs listens at a socket's name in place of whoever had it before.
func listenAs(socket string, mode os.FileMode) (*net.UnixListener, error) {
	mine := fmt.Sprintf("%s.%d.%d", socket, os.Getpid(), time.Now().UnixNano())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: mine})
	if err != nil {
		return nil, err
	}
	// The name belongs to whoever renamed last. Crash before: a socket of no
	// use, which nobody looks at. Not synced: after a power cut none leads anywhere.
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

// offer takes the place of the frontend before in dir.
func offer(dir string, listener *net.TCPListener, log *slog.Logger) (*heirs, error) {
	l, err := listenAs(filepath.Join(dir, handoverSocket), 0o600)
	if err != nil {
		return nil, fmt.Errorf("offering the listening socket: %w", err)
	}
	h := &heirs{offer: l, alive: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			if err := h.give(conn, listener); err != nil {
				log.Warn("giving the listening socket to a successor", "error", err)
			}
		}
	}()
	return h, nil
}

func (h *heirs) give(conn *net.UnixConn, listener *net.TCPListener) error {
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
	h.mu.Lock()
	h.conns[conn] = struct{}{}
	h.mu.Unlock()
	go h.watch(conn)
	return nil
}

// watch tells await about a successor that has confirmed.
func (h *heirs) watch(conn net.Conn) {
	defer func() {
		h.mu.Lock()
		delete(h.conns, conn)
		h.mu.Unlock()
		_ = conn.Close()
	}()
	var one [1]byte
	if _, err := conn.Read(one[:]); err != nil || conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() { _, _ = conn.Read(one[:]); close(gone) }()
	select {
	case h.alive <- struct{}{}: // taken by await
	case <-gone:
	}
	<-gone
}

// await waits for a successor, at most for so long.
func (h *heirs) await(limit time.Duration) {
	select {
	case <-h.alive:
	case <-time.After(limit):
	}
}

func (h *heirs) close() {
	_ = h.offer.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.conns {
		_ = conn.Close()
	}
}
