package p2p

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

const (
	replicas         = 20                    // of a record: Kademlia's k
	simulatedLatency = 50 * time.Millisecond // one way, between any two nodes
	joining          = 20                    // nodes at a time
	lookups          = 40                    // per size
	checkpoints      = 5                     // per size
	checkpointSize   = 400                   // bytes
)

// row is what was measured at one size of the network.
type row struct {
	Nodes                    int
	PeersMedian, PeersMax    int
	Lookups, Told, Found     int // the lookup met a record of the holder; the holder was connected to
	Hops                     float64
	HopsMax                  int
	Needed, Asked            float64 // requests per lookup until the holder was named, and in all
	Messages, Bytes, Records float64 // per announced key
	Refreshed                float64 // buckets of a node's routing table
	Missed                   int     // nodes that a checkpoint did not reach
	SpreadMedian, SpreadMax  int     // hops of a checkpoint
	Copies, Notes            float64 // per node and checkpoint
}

// A growing network is measured in hops and messages. Time is the bubble's, so
// that nothing depends on how fast the machine is. PYRSIA_SCALE names the
// directory of the report: with it the network grows to 1,000 nodes.
func TestScale(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector cannot follow so many goroutines, and ends")
	}
	sizes, dir := []int{10, 50}, os.Getenv("PYRSIA_SCALE")
	if dir != "" {
		sizes = []int{10, 30, 100, 300, 1000}
	}
	var rows []row
	started := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(simulatedLatency)
		defer s.close(t)
		for _, n := range sizes {
			began := time.Now()
			s.grow(t, n)
			r := s.measure(t)
			rows = append(rows, r)
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%+v", r)
			t.Logf("%d nodes: %v in the network's time, %d MB of heap, %d MB of stacks, %d goroutines", n, time.Since(began),
				m.HeapAlloc>>20, m.StackInuse>>20, runtime.NumGoroutine())
			if r.Told < r.Lookups {
				t.Errorf("%d nodes: of %d lookups %d met a record of the holder", n, r.Lookups, r.Told)
			}
			if r.Missed > 0 {
				t.Errorf("%d nodes: checkpoints missed %d", n, r.Missed)
			}
			if r.HopsMax > 5 || r.SpreadMax > 8 {
				t.Errorf("%d nodes: a lookup took %d hops, a checkpoint %d", n, r.HopsMax, r.SpreadMax)
			}
		}
	})
	t.Log("real time:", time.Since(started).Round(time.Second))
	if dir != "" {
		if err := writeScale(dir, rows); err != nil {
			t.Fatal(err)
		}
	}
}

// grow has nodes join, a few at a time, each through two that are there.
func (s *simulation) grow(t *testing.T, size int) {
	for len(s.nodes) < size {
		there := len(s.nodes)
		for range min(joining, size-there) {
			var through []*Host
			for range min(2, there) {
				through = append(through, s.nodes[rand.IntN(there)])
			}
			if there == 0 && len(s.nodes) > 0 {
				through = s.nodes[:1]
			}
			s.add(t, through...)
		}
		time.Sleep(4 * fastInterval)
	}
	for range 60 { // lonely nodes look for others
		time.Sleep(fastInterval)
		if !slices.ContainsFunc(s.nodes, func(h *Host) bool { return len(h.Peers()) < min(size-1, enoughPeers/2) }) {
			break
		}
	}
	time.Sleep(2 * recent) // then connections beyond the bound are gone
}

func (s *simulation) measure(t *testing.T) row {
	r := row{Nodes: len(s.nodes)}
	var peers []int
	for _, h := range s.nodes {
		peers = append(peers, len(h.Peers()))
		r.Refreshed += float64(len(h.dht.RoutingTable().GetTrackedCplsForRefresh())) / float64(len(s.nodes))
	}
	slices.Sort(peers)
	r.PeersMedian, r.PeersMax = peers[len(peers)/2], peers[len(peers)-1]
	s.measureLookups(t, &r)
	s.measureCheckpoints(t, &r)
	return r
}

// lookup is of an artifact that one node announces and another looks for.
type lookup struct {
	list          digest.Digest
	id            cid.Cid
	holder, asker *Host
	tally         *keyTally
}

// measureLookups has some nodes announce an artifact each, and others find it.
func (s *simulation) measureLookups(t *testing.T, r *row) {
	var all []lookup
	for i := range lookups {
		two := rand.Perm(len(s.nodes))[:2]
		l := lookup{list: digest.FromString(fmt.Sprint(len(s.nodes), i)), holder: s.nodes[two[0]], asker: s.nodes[two[1]]}
		id, err := contentID(l.list)
		if err != nil {
			t.Fatal(err)
		}
		l.id, l.tally = id, s.tally.watch(id, l.holder.ID(), l.asker.ID())
		l.holder.Announce(l.list)
		all = append(all, l)
	}
	for slices.ContainsFunc(all, func(l lookup) bool { return !l.holder.announced(l.id) }) {
		time.Sleep(fastInterval)
	}
	for _, l := range all {
		found := s.lookUp(t, l)
		s.tally.mu.Lock()
		r.Lookups++
		if l.tally.hops >= 0 {
			r.Told++
		}
		if found {
			r.Found++
		}
		r.Hops += float64(max(0, l.tally.hops)) / lookups
		r.HopsMax = max(r.HopsMax, l.tally.hops)
		r.Needed += float64(l.tally.needed) / lookups
		r.Asked += float64(l.tally.asked) / lookups
		r.Messages += float64(l.tally.announce) / lookups
		r.Bytes += float64(l.tally.size) / lookups
		r.Records += float64(l.tally.records) / lookups
		delete(s.tally.keys, string(l.id.Hash()))
		s.tally.mu.Unlock()
	}
}

// announced tells whether the node is done with a key.
func (h *Host) announced(id cid.Cid) bool {
	h.announcer.mu.Lock()
	defer h.announcer.mu.Unlock()
	return !h.announcer.due[id].IsZero()
}

// lookUp tells whether the asker was connected to the holder.
func (s *simulation) lookUp(t *testing.T, l lookup) (found bool) {
	own, err := l.asker.dht.ProviderStore().GetProviders(t.Context(), l.id.Hash())
	if err != nil {
		t.Fatal(err)
	}
	place := sha256.Sum256(l.id.Hash())
	nearest := l.asker.dht.RoutingTable().NearestPeers(place[:], replicas)
	s.tally.mu.Lock()
	if len(own) > 0 {
		l.tally.hops = 0
	}
	for _, id := range nearest {
		l.tally.depth[id] = 1
	}
	s.tally.mu.Unlock()
	var mu sync.Mutex // guards found
	err = l.asker.Find(t.Context(), l.list, func(p *Peer) {
		mu.Lock()
		defer mu.Unlock()
		found = found || p.ID == l.holder.ID()
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// measureCheckpoints has some node announce a checkpoint, some times.
func (s *simulation) measureCheckpoints(t *testing.T, r *row) {
	var hops []int
	for i := range checkpoints {
		signed := bytes.Repeat(fmt.Appendf(nil, "%d nodes, %d. ", len(s.nodes), i), checkpointSize)[:checkpointSize]
		publisher := s.nodes[rand.IntN(len(s.nodes))]
		s.tally.mu.Lock()
		spread := &spreadTally{checkpoint: string(signed), from: map[peer.ID]peer.ID{}}
		s.tally.spread = spread
		s.tally.mu.Unlock()
		if err := publisher.Gossip(t.Context(), signed); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // then it is no longer gossiped
		s.tally.mu.Lock()
		for id := range spread.from {
			n := 0
			for ; id != publisher.ID(); n++ {
				id = spread.from[id]
			}
			hops = append(hops, n)
		}
		r.Missed += len(s.nodes) - 1 - len(spread.from)
		r.Copies += float64(spread.copies) / float64(len(s.nodes)) / checkpoints
		r.Notes += float64(spread.notes) / float64(len(s.nodes)) / checkpoints
		s.tally.spread = nil
		s.tally.mu.Unlock()
	}
	slices.Sort(hops)
	if len(hops) > 0 {
		r.SpreadMedian, r.SpreadMax = hops[len(hops)/2], hops[len(hops)-1]
	}
}
