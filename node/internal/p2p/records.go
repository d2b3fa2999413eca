package p2p

import (
	"context"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/simplelru"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p-kad-dht/records"
)

const (
	// maxRecords bounds the provider records that this node keeps for others,
	// of about 200 bytes each.
	maxRecords = 64 << 10
	// maxRecordsPerPeer is somewhat more than what an honest node announces.
	maxRecordsPerPeer = 2 * maxAnnounced
	// maxRecordsPerKey bounds the providers of one key: more would not help a
	// lookup.
	maxRecordsPerKey = 128
)

// providerRecords keeps the provider records of the DHT in memory, bounded, so that
// a peer cannot fill a node by announcing a lot. A record is /providers/KEY/PEER.
type providerRecords struct {
	mu     sync.Mutex // guards what follows
	keys   map[string]map[string][]byte
	byPeer map[string]int
	count  int
}

var _ ds.Batching = (*providerRecords)(nil)

func newProviderRecords() *providerRecords {
	return &providerRecords{keys: map[string]map[string][]byte{}, byPeer: map[string]int{}}
}

func split(k ds.Key) (key, peer string) {
	s := k.String()
	i := strings.LastIndexByte(s, '/')
	return s[:i], s[i+1:]
}

// Put implements ds.Write. What is out of bounds is dropped without an error:
// the peer that sent it has no use for one.
func (r *providerRecords) Put(_ context.Context, k ds.Key, value []byte) error {
	key, peer := split(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.keys[key][peer]; !known {
		if r.count >= maxRecords || r.byPeer[peer] >= maxRecordsPerPeer || len(r.keys[key]) >= maxRecordsPerKey {
			return nil
		}
		r.count++
		r.byPeer[peer]++
		if r.keys[key] == nil {
			r.keys[key] = map[string][]byte{}
		}
	}
	r.keys[key][peer] = value
	return nil
}

// Delete implements ds.Write.
func (r *providerRecords) Delete(_ context.Context, k ds.Key) error {
	key, peer := split(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.keys[key][peer]; !known {
		return nil
	}
	r.count--
	delete(r.keys[key], peer)
	if len(r.keys[key]) == 0 {
		delete(r.keys, key)
	}
	if r.byPeer[peer]--; r.byPeer[peer] == 0 {
		delete(r.byPeer, peer)
	}
	return nil
}

// Get implements ds.Read.
func (r *providerRecords) Get(_ context.Context, k ds.Key) ([]byte, error) {
	key, peer := split(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	value, ok := r.keys[key][peer]
	if !ok {
		return nil, ds.ErrNotFound
	}
	return value, nil
}

// Has implements ds.Read.
func (r *providerRecords) Has(ctx context.Context, k ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, r, k)
}

// GetSize implements ds.Read.
func (r *providerRecords) GetSize(ctx context.Context, k ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, r, k)
}

// Query implements ds.Read: of one key without a look at the others, or of all.
func (r *providerRecords) Query(_ context.Context, q query.Query) (query.Results, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var entries []query.Entry
	add := func(key string) {
		for peer, value := range r.keys[key] {
			entries = append(entries, query.Entry{Key: key + "/" + peer, Value: value, Size: len(value)})
		}
	}
	prefix := strings.TrimSuffix(q.Prefix, "/")
	if _, ok := r.keys[prefix]; ok {
		add(prefix)
	} else {
		for key := range r.keys {
			if strings.HasPrefix(key, prefix+"/") {
				add(key)
			}
		}
	}
	q.Prefix = ""
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, entries)), nil
}

// Batch implements ds.BatchingFeature.
func (r *providerRecords) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(r), nil }

// Sync implements ds.Datastore.
func (r *providerRecords) Sync(context.Context, ds.Key) error { return nil }

// Close implements ds.Datastore.
func (r *providerRecords) Close() error { return nil }

// recordOptions make the DHT keep records for recordValidity, and only in
// providerRecords.
func recordOptions() []records.Option {
	return []records.Option{records.ProvideValidity(recordValidity), records.Cache(uncached{})}
}

// uncached has the DHT read each answer from the records, which are in memory
// and in bounds: what it would keep of a key that is asked for is not.
type uncached struct{ simplelru.LRUCache }

// Get finds nothing.
func (uncached) Get(any) (any, bool) { return nil, false }

// Add keeps nothing.
func (uncached) Add(any, any) (evicted bool) { return false }
