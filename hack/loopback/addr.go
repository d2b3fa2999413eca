// Package loopback gives addresses of this machine to the programs that tests and
// measurements start.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// FreeAddr is a loopback address whose port is free now, for TCP and for UDP and
// on all addresses. It is below those that the kernel gives to connections: among
// thousands of these, one that was free a moment ago is soon somebody's.
func FreeAddr() (string, error) {
	const first, count = 20_000, 10_000
	for range 100 {
		port := strconv.Itoa(first + rand.IntN(count))
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
