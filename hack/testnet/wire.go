package testnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is a host's link through this program, which delays its packets and
// loses some. Not every kernel has netem.
type Wire struct {
	Dropped atomic.Int64

	delay time.Duration
	loss  float64
	a, b  *os.File
	done  sync.WaitGroup
}

const (
	maxFrame = 1 << 16
	inFlight = 4096 // frames each way; more are lost, as in any queue
)

// NewWire replaces the host's link to the bridge by one that delays each
// packet and loses the given share of them, each way.
func (h *Host) NewWire(delay time.Duration, loss float64) (*Wire, error) {
	w := &Wire{delay: delay, loss: loss}
	tap := fmt.Sprintf("w%d-%d", h.net.number, h.number)
	var err error
	if w.a, err = openTap(tap, ""); err != nil {
		return nil, err
	}
	if w.b, err = openTap("eth1", fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid)); err != nil {
		return nil, errors.Join(err, w.a.Close())
	}
	err = errors.Join(
		run("ip", "link", "set", tap, "master", h.net.bridge(0), "up"),
		run("ip", "link", "set", h.port(), "nomaster"),
		h.run("ip", "address", "flush", "dev", "eth0", ";", "ip", "address", "add", h.IP+"/24", "dev", "eth1", ";",
			"ip", "link", "set", "eth1", "up", ";", "ip", "route", "replace", "default", "via", h.net.Gateway()),
	)
	if err != nil {
		return nil, errors.Join(err, w.a.Close(), w.b.Close())
	}
	w.done.Go(func() { w.pump(w.a, w.b) })
	w.done.Go(func() { w.pump(w.b, w.a) })
	return w, nil
}

// Close ends the link.
func (w *Wire) Close() error {
	err := errors.Join(w.a.Close(), w.b.Close())
	w.done.Wait()
	return err
}

// pump carries frames one way.
func (w *Wire) pump(from, to *os.File) {
	type frame struct {
		due  time.Time
		data []byte
	}
	queue := make(chan frame, inFlight)
	w.done.Go(func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			if _, err := to.Write(f.data); err != nil {
				w.Dropped.Add(1) // the other end is not up
			}
		}
	})
	defer close(queue)
	buf := make([]byte, maxFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return // closed
		}
		if rand.Float64() < w.loss {
			w.Dropped.Add(1)
			continue
		}
		select {
		case queue <- frame{time.Now().Add(w.delay), append([]byte(nil), buf[:n]...)}:
		default:
			w.Dropped.Add(1)
		}
	}
}

// openTap makes a network interface whose packets this program reads and
// writes, in the network namespace of that file, or in this one.
func openTap(name, namespace string) (*os.File, error) {
	// Locked and never unlocked when it leaves its namespace: the runtime ends
	// the thread with the goroutine.
	type result struct {
		fd  int
		err error
	}
	out := make(chan result)
	go func() {
		if namespace != "" {
			runtime.LockOSThread()
			ns, err := os.Open(namespace)
			if err == nil {
				err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
			}
			if err != nil {
				out <- result{err: err}
				return
			}
		}
		fd, err := tap(name)
		out <- result{fd, err}
	}()
	r := <-out
	if r.err != nil {
		return nil, fmt.Errorf("a tap interface: %w", r.err)
	}
	return os.NewFile(uintptr(r.fd), strings.TrimSpace(name)), nil
}

func tap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}
