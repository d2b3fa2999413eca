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

// Client returns the address that a request is accounted to, as Share has it.
// Identities are not counted, because anyone can create as many as they like.
func Client(r *http.Request) string {
	if addr, ok := r.Context().Value(clientKey{}).(netip.Addr); ok && addr.IsValid() {
		return Share(addr).String()
	}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return Share(at.Addr()).String()
	}
	return r.RemoteAddr
}

// Share is what counts as one client: an IPv4 address; of the internet's IPv6
// addresses a network of 64 bits, for a host is given a whole one; of the private ones
// (RFC 4193) an address, as of IPv4. The pods of a cluster may all be in one network,
// and take no other addresses than they are given.
func Share(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() && !a.IsPrivate() {
		return network(a).Addr()
	}
	return a
}

// network is that of 64 bits in which an IPv6 address is.
func network(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(64) // 64 bits are valid for IPv6
	return p
}
