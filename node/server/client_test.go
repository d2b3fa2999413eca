package server

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// What counts as one client: an IPv4 address, however it is written; a network of 64
// bits of the internet's IPv6, in which a host takes as many addresses as it likes;
// an address of a private one, in which a cluster's pods are.
func TestShares(t *testing.T) {
	for name, tt := range map[string]struct {
		a, b string
		same bool
	}{
		"two of IPv4":                 {"192.0.2.1", "192.0.2.2", false},
		"IPv4, and mapped":            {"192.0.2.1", "::ffff:192.0.2.1", true},
		"a network of the internet":   {"2001:db8:1:2::1", "2001:db8:1:2:ffff::7", true},
		"two networks":                {"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		"two pods of a private one":   {"fd00:10:244:1::5", "fd00:10:244:1::6", false},
		"one pod":                     {"fd00:10:244:1::5", "fd00:10:244:1::5", true},
		"a link-local one, and zoned": {"fe80::1", "fe80::1%eth0", true},
	} {
		if got := Share(netip.MustParseAddr(tt.a)) == Share(netip.MustParseAddr(tt.b)); got != tt.same {
			t.Errorf("%s: %s and %s are one client: %v", name, tt.a, tt.b, got)
		}
	}
}

// noListener serves tests that admit addresses without connections.
type noListener struct{ net.Listener }

func (noListener) Addr() net.Addr { return &net.TCPAddr{} }

// All addresses of one IPv6 network together get at most half of a port's
// connections. A pod in the operator's network does not use up the operator's own.
func TestIPv6NetworksAreBounded(t *testing.T) {
	t.Parallel()
	for name, inside := range map[string]string{"on the internet": "2001:db8:1:2::", "of a cluster": "fd00:10:244:1::"} {
		l := Limit(noListener{}, Bounds{Total: 80, PerAddress: 10}, slog.New(slog.DiscardHandler))
		base := netip.MustParseAddr(inside)
		admitted := func(from netip.Addr, tries int) (n int) {
			for range tries {
				if l.admit(from) {
					n++
				}
			}
			return n
		}
		pod, operator := base.Next(), base.Next().Next()
		if got := admitted(pod, 50); got != 10 {
			t.Errorf("%s: one address has %d connections, want 10", name, got)
		}
		if got := admitted(operator, 10); got != 10 {
			t.Errorf("%s: beside a pod that takes all it can, the operator has %d connections, want 10", name, got)
		}
		all := 20
		for range 100 {
			base = base.Next()
			all += admitted(netip.AddrFrom16(base.As16()), 10)
		}
		if all != 40 {
			t.Errorf("%s: one network has %d connections of 80, want half", name, all)
		}
		if got := admitted(netip.MustParseAddr("192.0.2.1"), 50); got != 10 {
			t.Errorf("%s: beside it an address of IPv4 has %d connections, want 10", name, got)
		}
	}
}
