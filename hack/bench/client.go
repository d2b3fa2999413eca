package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// transferAll fetches a path n times on each of so many connections.
func transferAll(ctx context.Context, addr, path string, connections, n int) (time.Duration, error) {
	return onConnections(ctx, addr, path, connections, func(_ int, conn *connection) error {
		for range n {
			if err := conn.fetch(); err != nil {
				return err
			}
		}
		return nil
	})
}

// requestRate fetches a path on 16 connections for two seconds.
func requestRate(ctx context.Context, addr, path string) (float64, error) {
	const connections, long = 16, 2 * time.Second
	begin := time.Now()
	counts := make([]int, connections)
	took, err := onConnections(ctx, addr, path, connections, func(i int, conn *connection) error {
		for time.Since(begin) < long {
			if err := conn.fetch(); err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	})
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / took.Seconds(), err
}

// onConnections runs work on n connections in parallel, and returns how long it
// took.
func onConnections(ctx context.Context, addr, path string, connections int, work func(i int, conn *connection) error) (time.Duration, error) {
	begin := time.Now()
	errs := make([]error, connections)
	var done sync.WaitGroup
	for i := range connections {
		done.Go(func() {
			conn, err := dial(ctx, addr, path)
			if err != nil {
				errs[i] = err
				return
			}
			errs[i] = errors.Join(work(i, conn), conn.Close())
		})
	}
	done.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// connection is a client that costs little, so that the server is measured.
type connection struct {
	net.Conn
	raw     syscall.RawConn
	request []byte
	buf     []byte
}

func dial(ctx context.Context, addr, path string) (*connection, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	accept := ""
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		accept += "Accept: " + string(t) + "\r\n"
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &connection{conn, raw, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, addr, accept), make([]byte, 1<<20)}, nil
}

// fetch makes the request once and reads the whole answer.
func (c *connection) fetch() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	have, end := 0, -1
	for end < 0 {
		n, err := c.Read(c.buf[have:])
		if err != nil {
			return err
		}
		have += n
		end = bytes.Index(c.buf[:have], []byte("\r\n\r\n"))
	}
	header := c.buf[:end+2]
	if !bytes.HasPrefix(header, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%s: %.300s", c.RemoteAddr(), c.buf[:have])
	}
	_, rest, ok := bytes.Cut(header, []byte("Content-Length: "))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(value))
	if !ok || err != nil {
		return fmt.Errorf("%s: no length: %.300s", c.RemoteAddr(), header)
	}
	return c.discard(length - (have - end - 4))
}

// wakeAt is how many bytes a client waits for before it wakes up.
const wakeAt = 1 << 20

// discard takes n bytes off the socket without a copy (MSG_TRUNC, tcp(7)), and
// without waking up for each segment (SO_RCVLOWAT, socket(7)), which the
// sender would pay for: the servers have both cores of a small machine to
// themselves.
func (c *connection) discard(n int) error {
	var failure error
	mark := 1
	err := c.raw.Read(func(fd uintptr) bool {
		for {
			if want := max(min(n, wakeAt), 1); want != mark {
				if failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, want); failure != nil {
					return true
				}
				mark = want
			}
			if n == 0 {
				return true
			}
			got, _, err := unix.Recvfrom(int(fd), c.buf[:min(len(c.buf), n)], unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
			case err != nil || got == 0:
				failure = errors.Join(io.ErrUnexpectedEOF, err)
				return true
			default:
				n -= got
			}
		}
	})
	return errors.Join(failure, err)
}
