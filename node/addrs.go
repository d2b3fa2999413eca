package node

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// externalAddrs are the multiaddrs of Announce. own tells this node's own addresses.
func (c *Config) externalAddrs(own func() ([]netip.Addr, error)) (out []string, err error) {
	for _, s := range c.ExternalAddrs {
		list, port, err := net.SplitHostPort(s)
		if err != nil {
			return nil, fmt.Errorf("address %q to announce: want HOST:PORT, an IPv6 address in brackets: %w", s, err)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || list == "" {
			return nil, fmt.Errorf("address %q to announce: want HOST:PORT, with a port from 1 to 65535", s)
		}
		hosts := strings.Split(list, ",")
		if len(hosts) > 1 { // of the machine around this node
			addrs, err := own()
			if err != nil {
				return nil, err
			}
			hosts = slices.DeleteFunc(hosts, func(host string) bool { return !ofFamily(host, addrs) })
		}
		for _, host := range hosts {
			kind := "dns"
			if ip, err := netip.ParseAddr(host); err == nil {
				host, kind = ip.Unmap().String(), "ip6"
				if ip.Unmap().Is4() {
					kind = "ip4"
				}
			}
			out = append(out, fmt.Sprintf("/%s/%s/tcp/%s", kind, host, port))
		}
	}
	return out, nil
}

// ofFamily tells whether a node with the given addresses can be reached at an
// address of the machine around it: packets of a family that the node lacks are not
// forwarded to it.
func ofFamily(host string, own []netip.Addr) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Is4() == ip.Unmap().Is4() })
}

// ownAddresses are those of this machine, or pod, at which others reach it.
func ownAddresses() (out []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("reading the addresses of this machine: %w", err)
	}
	for _, a := range all {
		network, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(network.IP); ok && ip.Unmap().IsGlobalUnicast() {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}
