package p2p

import (
	"testing"

	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/opencontainers/go-digest"
)

// A node keeps and returns a bounded number of providers of one key, even while
// it is asked for that key all the time.
func TestProvidersOfOneKeyAreBounded(t *testing.T) {
	known, err := pstoremem.NewPeerstore()
	if err != nil {
		t.Fatal(err)
	}
	manager, err := records.NewProviderManager("self", known, newProviderRecords(), recordOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	id, err := contentID(digest.FromString("popular"))
	if err != nil {
		t.Fatal(err)
	}
	const unwritten = 256 // the manager's own buffer, which it writes when that is full
	for i := range 4 * (maxRecordsPerKey + unwritten) {
		announcer, err := test.RandPeerID()
		if err != nil {
			t.Fatal(err)
		}
		if err := manager.AddProvider(t.Context(), id.Hash(), peer.AddrInfo{ID: announcer}); err != nil {
			t.Fatal(err)
		}
		providers, err := manager.GetProviders(t.Context(), id.Hash())
		if err != nil {
			t.Fatal(err)
		}
		if len(providers) == 0 || len(providers) > maxRecordsPerKey+unwritten {
			t.Fatalf("%d providers after %d announcements, want at most %d", len(providers), i+1, maxRecordsPerKey+unwritten)
		}
	}
}
