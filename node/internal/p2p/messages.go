package p2p

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// maxMessage bounds what a peer asks the DHT in one message, in bytes: a key, and
// at most a node with its addresses. The DHT itself would allocate 4 MiB for any
// peer that announces as much.
const maxMessage = 64 << 10

// small has what streams bring to a host's handlers be messages of bounded size,
// each with its length before it as a varint.
type small struct{ host.Host }

// SetStreamHandler implements host.Host.
func (h small) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) { handle(&messages{Stream: s}) })
}

// messages is a stream of them.
type messages struct {
	network.Stream
	left   uint64 // of the message that is being read
	length uint64 // as far as it has been read
	bits   uint
}

// Read implements io.Reader.
func (m *messages) Read(p []byte) (int, error) {
	n, err := m.Stream.Read(p)
	for b := p[:n]; len(b) > 0; {
		if skip := min(m.left, uint64(len(b))); skip > 0 {
			b, m.left = b[skip:], m.left-skip
			continue
		}
		m.length |= uint64(b[0]&0x7f) << m.bits
		m.bits += 7
		if m.length > maxMessage || m.bits > 28 {
			return 0, errors.Join(fmt.Errorf("a message of more than %d bytes", maxMessage), m.Reset())
		}
		if b[0] < 0x80 {
			m.left, m.length, m.bits = m.length, 0, 0
		}
		b = b[1:]
	}
	return n, err
}
