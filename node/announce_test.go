package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnouncedAddresses(t *testing.T) {
	c := Config{Announce: []string{"192.0.2.7:4001", "[2001:db8::7]:30401", "pyrsia.example.com:4001", "[::ffff:192.0.2.7]:1"}}
	got, err := c.announced()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/30401", "/dns/pyrsia.example.com/tcp/4001", "/ip4/192.0.2.7/tcp/1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "192.0.2.7", "2001:db8::7:1", ":4001", "host:0", "host:70000", "host:p2p"} {
		c.Announce = []string{bad}
		if got, err := c.announced(); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}
