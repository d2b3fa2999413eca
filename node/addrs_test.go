package node

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnouncedAddresses(t *testing.T) {
	c := Config{ExternalAddrs: []string{"192.0.2.7:4001", "[2001:db8::7]:30401", "pyrsia.example.com:4001", "[::ffff:192.0.2.7]:1"}}
	got, err := c.externalAddrs(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/30401", "/dns/pyrsia.example.com/tcp/4001", "/ip4/192.0.2.7/tcp/1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "192.0.2.7", "2001:db8::7:1", ":4001", "host:0", "host:70000", "host:p2p"} {
		c.ExternalAddrs = []string{bad}
		if got, err := c.externalAddrs(nil); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// A machine with addresses of both families forwards to a pod the packets of
// the families that the pod has.
func TestAddressesOfTheMachineAroundAPod(t *testing.T) {
	four, six := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")
	at4, at6 := "/ip4/192.0.2.7/tcp/30401", "/ip6/2001:db8::7/tcp/30401"
	for _, tt := range []struct {
		announce string
		own      []netip.Addr
		want     []string
	}{
		{"[192.0.2.7,2001:db8::7]:30401", []netip.Addr{four, six}, []string{at4, at6}},
		{"[2001:db8::7,192.0.2.7]:30401", []netip.Addr{six, four}, []string{at6, at4}},
		{"[192.0.2.7,2001:db8::7]:30401", []netip.Addr{four}, []string{at4}},
		{"[192.0.2.7,2001:db8::7]:30401", []netip.Addr{six}, []string{at6}},
		{"[192.0.2.7]:30401", []netip.Addr{four}, []string{at4}},
		{"[2001:db8::7]:30401", []netip.Addr{four}, []string{at6}}, // somebody has said so
	} {
		c := Config{ExternalAddrs: []string{tt.announce}}
		got, err := c.externalAddrs(func() ([]netip.Addr, error) { return tt.own, nil })
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s by a node at %v: %v\n%s", tt.announce, tt.own, err, diff)
		}
	}
}

func TestOwnAddressesAreNoLoopback(t *testing.T) {
	own, err := ownAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if a.IsLoopback() || a.IsLinkLocalUnicast() || a.Is4In6() {
			t.Errorf("%s is taken for one that others reach", a)
		}
	}
}
