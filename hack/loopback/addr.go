// Package loopback gives addresses of this machine to the programs that tests and
// measurements start.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// FreeAddr is a loopback address whose port is free now, for TCP and for UDP and
// on all addresses. It is below those that the kernel gives to connections: among
// thousands of these, a free one is soon taken. No other process gets it from
// FreeAddr while this one runs.
func FreeAddr() (string, error) {
	const first, count = 20_000, 10_000
	for range 100 {
		port := strconv.Itoa(first + rand.IntN(count))
		if ours, err := reserve(port); err != nil {
			return "", fmt.Errorf("reserving a port: %w", err)
		} else if !ours {
			continue
		}
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		p, err := net.ListenPacket("udp", ":"+port)
		if err := errors.Join(err, l.Close()); err != nil {
			continue
		}
		return "127.0.0.1:" + port, p.Close()
	}
	return "", fmt.Errorf("no port is free between %d and %d", first, first+count)
}

// reserved are the locked files of this process's ports, by port.
var (
	reservedMu sync.Mutex
	reserved   = map[string]*os.File{}
)

// reserve tells whether a port is this process's from now on: the kernel gives the
// lock back when the process ends.
func reserve(port string) (bool, error) {
	reservedMu.Lock()
	defer reservedMu.Unlock()
	if reserved[port] != nil {
		return false, nil
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pyrsia-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	f, err := os.OpenFile(filepath.Join(dir, port), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return false, errors.Join(err, f.Close())
	}
	reserved[port] = f
	return true, nil
}
