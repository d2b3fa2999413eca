package server

import (
	"context"
	"net/http"
	"net/netip"
)

// clientKey is the context's key of an address.
type clientKey struct{}

// WithClient says which address the requests of a connection come from whose
// RemoteAddr is none: a peer's ID, over libp2p.
func WithClient(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, addr)
}

// Client is whose share of the node a request counts against: one IPv4 address,
// or one IPv6 network of 64 bits. An identity has no share of its own, for
// anyone makes as many as he likes.
func Client(r *http.Request) string {
	if addr, ok := r.Context().Value(clientKey{}).(netip.Addr); ok && addr.IsValid() {
		return Share(addr).String()
	}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return Share(at.Addr()).String()
	}
	return r.RemoteAddr
}

// Share is the address, or the network, that counts as one client.
func Share(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() { // a host is given a whole network of these
		network, _ := a.Prefix(64) // 64 bits are valid for IPv6
		return network.Addr()
	}
	return a
}
