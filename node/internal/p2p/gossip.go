package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const (
	// maxGossip bounds a gossip message: one signed checkpoint of at most 96 KiB
	// (see ledger.VerifyCheckpoint), and what frames it.
	maxGossip = 100 << 10
	// A publisher signs up to five checkpoints a second, and a peer forwards each
	// once: a peer may send gossipRate messages a second, in bursts of
	// gossipBurst.
	gossipRate  = 20
	gossipBurst = 200
	// badCost is what a checkpoint with a bad signature costs its peer, in
	// messages. No honest peer sends one, for it has checked it.
	badCost = 40
	// maxSenders bounds the peers whose messages are counted.
	maxSenders = 1024
)

// senders counts what each peer gossips.
type senders struct {
	of *lru.Cache[peer.ID, *rate.Limiter]
}

func newSenders() *senders {
	of, err := lru.New[peer.ID, *rate.Limiter](maxSenders)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &senders{of}
}

func (s *senders) limit(id peer.ID) *rate.Limiter {
	own := rate.NewLimiter(gossipRate, gossipBurst)
	if before, ok, _ := s.of.PeekOrAdd(id, own); ok {
		return before
	}
	return own
}

// inspect drops what a peer sends too much of. It is called before anything is
// noted of a message: what is dropped here is new when another peer sends it.
func (s *senders) inspect(from peer.ID, rpc *pubsub.RPC) error {
	if n := len(rpc.GetPublish()); n > 0 && !s.limit(from).AllowN(time.Now(), min(n, gossipBurst)) {
		return errors.New("it sends more than any node has to say")
	}
	return nil
}

// blame makes a message with a bad signature dear.
func (s *senders) blame(from peer.ID) { s.limit(from).ReserveN(time.Now(), badCost) }

// messageID names a gossip message by what decides whether it is accepted, and
// by nothing else: the essence of its checkpoint. Pubsub remembers an ID before
// the message is checked, and never looks at another one with that ID. So
//   - a variant of an accepted checkpoint, with whatever signatures of others,
//     has the same ID and costs no second look;
//   - a variant that is refused cannot keep the honest one out: for it to have
//     the same ID it would have to be accepted;
//   - anything that is not a checkpoint signed by a key of ours is named by all
//     of its bytes, and refused without checking a signature.
//
// An ID over the signed text alone would let anyone who knows the text, which
// is no secret, send it first with a bad signature: the honest one would be
// thrown away as seen.
func (h *Host) messageID(m *pb.Message) string {
	essence, err := h.config.Essence(m.GetData())
	if err != nil {
		essence = append([]byte("no checkpoint of ours\x00"), m.GetData()...)
	}
	id := sha256.Sum256(essence)
	return string(id[:])
}

// accept checks a message by its essence alone, as messageID demands.
func (h *Host) accept(_ context.Context, from peer.ID, m *pubsub.Message) bool {
	essence, err := h.config.Essence(m.Data)
	if err != nil {
		return false // perhaps by a key to come: no reason to blame the peer
	}
	if err := h.config.Check(essence); err != nil {
		h.senders.blame(from)
		return false
	}
	return true
}

// gossip joins the topic on which new checkpoints spread.
func (h *Host) gossip(ctx context.Context) error {
	ps, err := pubsub.NewGossipSub(ctx, h.host,
		pubsub.WithMaxMessageSize(maxGossip),
		pubsub.WithPeerExchange(true),
		// A publisher sends to all its neighbours. Through the mesh alone, a
		// third of thirty nodes that knew only the publisher never got a message.
		pubsub.WithFloodPublish(true),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), // checkpoints carry the publisher's own
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(h.messageID),
		pubsub.WithAppSpecificRpcInspector(h.senders.inspect),
	)
	if err != nil {
		return fmt.Errorf("joining the gossip: %w", err)
	}
	name := string(h.prefix) + "/checkpoint"
	// Inline: a check takes less than a message takes on its way, and a queue of
	// checks that is full throws messages away that are noted as seen.
	if err := ps.RegisterTopicValidator(name, h.accept, pubsub.WithValidatorInline(true)); err != nil {
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
				h.config.OnCheckpoint(m.ReceivedFrom)
			}
		}
	})
	return nil
}

// Gossip spreads a new checkpoint.
func (h *Host) Gossip(ctx context.Context, signed []byte) error {
	if err := h.topic.Publish(ctx, signed); err != nil {
		return fmt.Errorf("gossiping a checkpoint: %w", err)
	}
	return nil
}
