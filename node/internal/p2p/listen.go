package p2p

import (
	"fmt"
	"net"

	"github.com/multiformats/go-multiaddr"
)

// listen opens the node's addresses, all of them or none: libp2p leaves out
// silently what it cannot have, and a node whose port another process holds for
// TCP or for QUIC alone would be reached by some peers and not by others. Only
// a machine without IPv6 may lack those addresses.
func (h *Host) listen(addrs []multiaddr.Multiaddr) error {
	for _, a := range addrs {
		err := h.host.Network().Listen(a)
		if err == nil || isIPv6(a) && !hasIPv6() {
			continue
		}
		return fmt.Errorf("listening for peers at %s: %w; another process may have the port: set --p2p-port to one that is free for TCP and for UDP", a, err)
	}
	return nil
}

func isIPv6(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_IP6)
	return err == nil
}

// hasIPv6 tells whether this machine knows IPv6 at all.
func hasIPv6() bool {
	l, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6unspecified})
	if err != nil {
		return false
	}
	return l.Close() == nil
}
