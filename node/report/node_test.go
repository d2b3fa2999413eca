package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

func TestStatusForPeople(t *testing.T) {
	var out bytes.Buffer
	if err := Status(&out, client.Status{Role: "Mirror", Version: "v1", PeerID: "12D3", Addrs: []string{"/ip4/10.0.0.1/tcp/4001", "/ip6/::1/tcp/4001"},
		Ready: true, Peers: 3, Ledger: "example.com/l", Blocks: 7, Blobs: 2, Bytes: 3 << 20, Uptime: 61,
		Asked: map[string]time.Time{"quay.io": time.Now().Add(-time.Minute), "docker.io": time.Now()}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Mirror, ready, version v1, up 1m1s", "/ip6/::1/tcp/4001", "example.com/l, 7 blocks verified", "2 blobs, 3.0 MiB",
		"Asked for:   docker.io, by containerd 0s ago\n             quay.io, by containerd 1m0s ago\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status lacks %q:\n%s", want, &out)
		}
	}
	out.Reset()
	if err := Peers(&out, []client.Peer{{ID: "12D3", Addr: "/ip4/10.0.0.2/tcp/4001", Direction: "inbound", Since: time.Now(), Via: "http", Received: 1023, State: "banned"}}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) != 3 || strings.Join(strings.Fields(lines[1]), " ") != "12D3 /ip4/10.0.0.2/tcp/4001 inbound 0s - http 1023 B banned" {
		t.Errorf("peers:\n%s", &out)
	}
}
