package p2p

import (
	"strings"
	"testing"
)

func TestWhatPeersSayIsBounded(t *testing.T) {
	for name, said := range map[string]string{
		"many peers":     `{"peers":[` + strings.Repeat("{},", 20_000) + "{}]}",
		"many bytes":     `{"peers":[],"` + strings.Repeat("x", maxPeersJSON) + `":1}`,
		"a list cut off": `{"peers":[`,
	} {
		t.Run(name, func(t *testing.T) {
			var out hello
			made := testing.AllocsPerRun(5, func() {
				if err := decodePeers(strings.NewReader(said), &out); err == nil || len(out.Peers) > 0 {
					t.Errorf("%v, %d peers", err, len(out.Peers))
				}
			})
			if made > 60 {
				t.Errorf("%v allocations", made)
			}
		})
	}
}
