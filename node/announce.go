package node

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// announced are the multiaddrs of Announce.
func (c *Config) announced() (out []string, err error) {
	for _, s := range c.Announce {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return nil, fmt.Errorf("address %q to announce: want HOST:PORT, an IPv6 address in brackets: %w", s, err)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("address %q to announce: want HOST:PORT, with a port from 1 to 65535", s)
		}
		kind := "dns"
		if ip, err := netip.ParseAddr(host); err == nil {
			host, kind = ip.Unmap().String(), "ip6"
			if ip.Unmap().Is4() {
				kind = "ip4"
			}
		}
		out = append(out, fmt.Sprintf("/%s/%s/tcp/%s", kind, host, port))
	}
	return out, nil
}
