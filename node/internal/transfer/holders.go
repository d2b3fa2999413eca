package transfer

import (
	"cmp"
	"math/rand/v2"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

const (
	maxKeys    = 1024 // artifacts of which holders are remembered
	maxHolders = 8    // of each
)

// holders remembers which peers delivered something of an artifact: a peer with
// one blob of it is likely to have the others.
type holders struct {
	byKey *lru.Cache[digest.Digest, []peer.ID]
}

func newHolders() *holders {
	byKey, err := lru.New[digest.Digest, []peer.ID](maxKeys)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &holders{byKey}
}

func (h *holders) delivered(key digest.Digest, id peer.ID) {
	old, _ := h.byKey.Get(key)
	if slices.Contains(old, id) {
		return
	}
	h.byKey.Add(key, append(slices.Clone(old[max(0, len(old)-maxHolders+1):]), id))
}

// of returns the peers that delivered something of an artifact.
func (h *holders) of(key digest.Digest) []peer.ID {
	known, _ := h.byKey.Get(key)
	return known
}

func (h *holders) lacks(key digest.Digest, id peer.ID) {
	if old, ok := h.byKey.Get(key); ok {
		h.byKey.Add(key, slices.DeleteFunc(slices.Clone(old), func(o peer.ID) bool { return o == id }))
	}
}

// order sorts peers by how likely they are to deliver, at random among equals
// so that the load spreads, and leaves out banned ones. Small blobs are
// requested first from peers that claim to have everything: it saves a search
// among the others, and costs them little.
func (h *holders) order(key digest.Digest, peers []*p2p.Peer, small bool) []*p2p.Peer {
	known, _ := h.byKey.Get(key)
	peers = slices.DeleteFunc(slices.Clone(peers), func(p *p2p.Peer) bool { return p.Banned() })
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	rank := func(p *p2p.Peer) int {
		switch {
		case p.Avoided():
			return 3
		case slices.Contains(known, p.ID):
			return 0
		case small && p.Complete():
			return 1
		default:
			return 2
		}
	}
	slices.SortStableFunc(peers, func(a, b *p2p.Peer) int { return cmp.Compare(rank(a), rank(b)) })
	return peers
}
