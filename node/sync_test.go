package node

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Configured peers are asked about a new key even before they are connected, because
// strangers may connect first.
func TestWhoIsConfiguredIsAWitness(t *testing.T) {
	_, vkey, err := ledger.GenerateKey("ledger.example/witnesses")
	if err != nil {
		t.Fatal(err)
	}
	const away = "12D3KooWGRUvJQ8vwPWrDrVzeyAprQm5aEFNMD6LBXzxFqJQZRfW"
	there := start(t, Config{Role: control.Mirror, LedgerKey: vkey})
	m := start(t, Config{Role: control.Mirror, LedgerKey: vkey, LedgerURLs: []string{"http://127.0.0.1:2"},
		Bootstrap: []string{"/ip4/127.0.0.1/tcp/1/p2p/" + away, "http://127.0.0.1:1", there.address()}})
	want := []string{away, there.host.ID().String(), "http://127.0.0.1:1", "http://127.0.0.1:2"}
	var got []string
	for _, w := range m.role.(*mirrorRole).witnesses() {
		got = append(got, w.(source).name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
