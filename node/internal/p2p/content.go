package p2p

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
)

const (
	// maxProviders bounds how many nodes one lookup asks for, and maxFound how
	// many of them are connected to.
	maxProviders = 64
	maxFound     = 16
	findDials    = 8 // at a time
	findDial     = 1500 * time.Millisecond
	// findSilence is after how long without an answer from the network a lookup
	// ends.
	findSilence = 2 * time.Second
	maxNamed    = 3 // nodes in one error
)

// contentID names content in the DHT by its SHA-256.
func contentID(d digest.Digest) (cid.Cid, error) {
	hash, err := multihash.FromHexString("1220" + d.Encoded()) // sha2-256, 32 bytes
	if err != nil {
		return cid.Undef, fmt.Errorf("digest %s: %w", d, err)
	}
	return cid.NewCidV1(cid.Raw, hash), nil
}

// Find asks the network which nodes have some content, connects to them, and
// calls found for each one as soon as it answers. If none does, the error names
// the nodes that were said to have it. Connected peers are better asked
// directly. A node that falsely claims to have content costs one of maxFound
// dials.
func (h *Host) Find(ctx context.Context, d digest.Digest, found func(*Peer)) error {
	exact, err := contentID(d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	infos := h.lookUp(ctx, exact, shardID(shardOf(d)))
	slots := make(chan struct{}, findDials)
	seen := map[peer.ID]bool{h.ID(): true}
	var dials sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var reached bool
	var silent []string
	for info := range infos {
		if seen[info.ID] {
			continue
		}
		seen[info.ID] = true
		if len(seen) > maxFound {
			break
		}
		h.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
		slots <- struct{}{}
		dials.Go(func() {
			defer func() { <-slots }()
			_ = h.connect(ctx, info, findDial) // await tells
			p, ok := h.await(ctx, info.ID)
			mu.Lock()
			reached = reached || ok
			if !ok && len(silent) < maxNamed {
				silent = append(silent, Describe(info))
			}
			mu.Unlock()
			if ok {
				found(p)
			}
		})
	}
	dials.Wait()
	if !reached && len(silent) > 0 {
		return fmt.Errorf("said to have it, and out of reach: %s", strings.Join(silent, ", "))
	}
	return ctx.Err()
}

// lookUp sends the nodes that have announced one of the keys, until the network
// has no more answers.
func (h *Host) lookUp(ctx context.Context, keys ...cid.Cid) <-chan peer.AddrInfo {
	ctx, stop := context.WithCancel(ctx)
	ctx, events := routing.RegisterForQueryEvents(ctx)
	go func() {
		silence := time.AfterFunc(findSilence, stop)
		defer silence.Stop()
		for e := range events { // closed when ctx has ended
			if e.Type == routing.PeerResponse || e.Type == routing.Provider {
				silence.Reset(findSilence)
			}
		}
	}()
	infos := make(chan peer.AddrInfo)
	var lookups sync.WaitGroup
	for _, id := range keys {
		lookups.Go(func() {
			for info := range h.dht.FindProvidersAsync(ctx, id, maxProviders) {
				select {
				case infos <- info:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() {
		lookups.Wait()
		close(infos)
		stop()
	}()
	return infos
}

// Describe names a node with its last addresses, for people.
func Describe(info peer.AddrInfo) string {
	if len(info.Addrs) == 0 {
		return info.ID.String()
	}
	addrs := make([]string, 0, 2)
	for _, a := range info.Addrs[:min(len(info.Addrs), cap(addrs))] {
		addrs = append(addrs, a.String())
	}
	return fmt.Sprintf("%s (last at %s)", info.ID, strings.Join(addrs, " and "))
}

// Gone are nodes that were connected, and had something, as had tells, or said
// that they had everything. What they said need not be true.
func (h *Host) Gone(had func(peer.ID) bool) (out []peer.AddrInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, info := range h.former {
		if _, connected := h.peers[id]; !connected && (h.complete[id] || had(id)) {
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b peer.AddrInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}
