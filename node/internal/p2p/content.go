package p2p

import (
	"context"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
)

// maxProviders bounds how many nodes a lookup asks for.
const maxProviders = 16

// contentID names content in the DHT by its SHA-256.
func contentID(d digest.Digest) (cid.Cid, error) {
	hash, err := multihash.FromHexString("1220" + d.Encoded()) // sha2-256, 32 bytes
	if err != nil {
		return cid.Undef, fmt.Errorf("digest %s: %w", d, err)
	}
	return cid.NewCidV1(cid.Raw, hash), nil
}

// Provide tells the network that this node has content.
func (h *Host) Provide(ctx context.Context, d digest.Digest) error {
	id, err := contentID(d)
	if err != nil {
		return err
	}
	if err := h.dht.Provide(ctx, id, true); err != nil {
		return fmt.Errorf("announcing %s: %w", d, err)
	}
	return nil
}

// Find asks the network who has content, and connects to them. The peers that
// are connected anyway are better asked directly.
func (h *Host) Find(ctx context.Context, d digest.Digest) ([]*Peer, error) {
	id, err := contentID(d)
	if err != nil {
		return nil, err
	}
	var out []*Peer
	for info := range h.dht.FindProvidersAsync(ctx, id, maxProviders) {
		if info.ID == h.ID() {
			continue
		}
		h.remember(info.ID, info.Addrs)
		if h.host.Network().Connectedness(info.ID) != network.Connected {
			h.connect(ctx, info)
		}
		if p, ok := h.Peer(info.ID); ok {
			out = append(out, p)
		}
	}
	return out, nil
}
