package p2p

import (
	"context"
	"crypto/sha256"
	"fmt"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// maxGossip bounds a gossip message: one signed checkpoint of at most 96 KiB (see
// ledger.VerifyCheckpoint), and what frames it.
const maxGossip = 100 << 10

// gossip joins the topic on which new checkpoints spread.
func (h *Host) gossip(ctx context.Context) error {
	ps, err := pubsub.NewGossipSub(ctx, h.host,
		pubsub.WithMaxMessageSize(maxGossip),
		pubsub.WithPeerExchange(true),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), // checkpoints carry the publisher's own
		pubsub.WithNoAuthor(),
		// Without an author, the content is what makes a message another one.
		pubsub.WithMessageIdFn(func(m *pb.Message) string {
			id := sha256.Sum256(m.GetData())
			return string(id[:])
		}),
	)
	if err != nil {
		return fmt.Errorf("joining the gossip: %w", err)
	}
	name := string(h.prefix) + "/checkpoint"
	err = ps.RegisterTopicValidator(name, func(_ context.Context, _ peer.ID, m *pubsub.Message) bool {
		return h.config.Check(m.Data) == nil
	})
	if err != nil {
		return fmt.Errorf("joining the gossip: %w", err)
	}
	if h.topic, err = ps.Join(name); err != nil {
		return fmt.Errorf("joining the gossip: %w", err)
	}
	sub, err := h.topic.Subscribe()
	if err != nil {
		return fmt.Errorf("joining the gossip: %w", err)
	}
	h.done.Go(func() {
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				return // ctx ended
			}
			if m.ReceivedFrom != h.ID() {
				h.config.Announced(m.ReceivedFrom)
			}
		}
	})
	return nil
}

// Announce spreads a new checkpoint.
func (h *Host) Announce(ctx context.Context, signed []byte) error {
	if err := h.topic.Publish(ctx, signed); err != nil {
		return fmt.Errorf("announcing a checkpoint: %w", err)
	}
	return nil
}
