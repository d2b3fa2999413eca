package p2p

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
)

const (
	// maxProviders bounds how many nodes one lookup asks for, and maxFound how
	// many of them are connected to.
	maxProviders = 64
	maxFound     = 16
	findDials    = 8 // at a time
	findDial     = 2 * time.Second
)

// contentID names content in the DHT by its SHA-256.
func contentID(d digest.Digest) (cid.Cid, error) {
	hash, err := multihash.FromHexString("1220" + d.Encoded()) // sha2-256, 32 bytes
	if err != nil {
		return cid.Undef, fmt.Errorf("digest %s: %w", d, err)
	}
	return cid.NewCidV1(cid.Raw, hash), nil
}

// Find asks the network who has content, connects to them, and calls found
// for each one as soon as it answers. Peers that are connected anyway are
// better asked directly. Who claims to have content may lie: that costs one
// of maxFound dials.
func (h *Host) Find(ctx context.Context, d digest.Digest, found func(*Peer)) error {
	exact, err := contentID(d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	infos := make(chan peer.AddrInfo)
	var lookups, dials sync.WaitGroup
	for _, id := range []cid.Cid{exact, shardID(shardOf(d))} {
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
	}()
	slots := make(chan struct{}, findDials)
	seen := map[peer.ID]bool{h.ID(): true}
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
			if p, ok := h.await(ctx, info.ID); ok {
				found(p)
			}
		})
	}
	dials.Wait()
	return ctx.Err()
}
