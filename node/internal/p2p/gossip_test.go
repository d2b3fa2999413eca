package p2p

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// listener is a node that counts the messages it gets and the signatures it
// checks.
type listener struct {
	*Host
	told, looks atomic.Int64
}

func newListener(t *testing.T, l *replica.Ledger) *listener {
	t.Helper()
	n := new(listener)
	var err error
	n.Host, err = New(t.Context(), Config{
		KeyFile: filepath.Join(t.TempDir(), "key"), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Network: l.Origin(),
		Essence: l.Essence,
		Check: func(essence []byte) error {
			n.looks.Add(1)
			_, err := l.VerifyCheckpoint(essence)
			return err
		},
		Holds: func(digest.Digest) bool { return true }, Joined: func() {},
		OnCheckpoint: func(peer.ID) { n.told.Add(1) }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// onlyTo keeps a host from dialling anyone but one peer.
type onlyTo peer.ID

func (o onlyTo) InterceptPeerDial(id peer.ID) bool                        { return id == peer.ID(o) }
func (o onlyTo) InterceptAddrDial(id peer.ID, _ multiaddr.Multiaddr) bool { return id == peer.ID(o) }
func (onlyTo) InterceptAccept(network.ConnMultiaddrs) bool                { return true }
func (onlyTo) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}
func (onlyTo) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// talker is a peer that says what it likes to one node, and hears what that says.
func talker(t *testing.T, to *Host) (host.Host, *pubsub.Topic, *pubsub.Subscription) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ConnectionGater(onlyTo(to.ID())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	h.SetStreamHandler(to.httpProtocol(), func(s network.Stream) { _ = s.Reset() }) // or it is sent away
	ps, err := pubsub.NewGossipSub(t.Context(), h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithPeerOutboundQueueSize(10_000), pubsub.WithFloodPublish(true), pubsub.WithMessageIdFn(func(m *pb.Message) string { return string(m.GetData()) }))
	if err != nil {
		t.Fatal(err)
	}
	topic, err := ps.Join(string(to.prefix) + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := topic.Subscribe(pubsub.WithBufferSize(10_000))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the talker has no neighbour", func() bool {
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: to.ID(), Addrs: to.host.Addrs()}); err != nil {
			t.Log(err)
		}
		return len(topic.ListPeers()) == 1
	})
	return h, topic, sub
}

func eventually(t *testing.T, otherwise string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}

// signedBlocks are the checkpoints of a ledger that has one block more each time.
func signedBlocks(t *testing.T, n int) (*replica.Ledger, [][]byte) {
	t.Helper()
	skey, _, err := ledger.GenerateKey("ledger.example/gossip")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	var out [][]byte
	for i := range n {
		name := fmt.Sprint("docker.io/library/image:", i)
		d := digest.FromString(name)
		if _, err := w.Append(t.Context(), &ledger.AddArtifact{
			Type: ledger.TypeAddArtifact, Version: 1, Artifact: name, Digest: d, MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
			Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: d, Config: d, Size: 1}},
			Pieces:    d, Upstream: "registry.example", Time: time.Unix(int64(i), 0).UTC(),
		}); err != nil {
			t.Fatal(err)
		}
		head, _ := w.Head()
		out = append(out, head.Signed)
	}
	return w.Ledger, out
}

const (
	variants = 6000
	// heartbeats is when the neighbours have become one mesh.
	heartbeats = 1500 * time.Millisecond
)

// However many variants of one checkpoint are gossiped, with whatever
// signatures of others, one of them is looked at and handed on.
func TestVariantsOfACheckpointCostOneLook(t *testing.T) {
	t.Parallel()
	l, signed := signedBlocks(t, 1)
	victim := newListener(t, l)
	_, flood, _ := talker(t, victim.Host)
	_, _, heard := talker(t, victim.Host)
	time.Sleep(heartbeats)
	for i := range variants {
		junk := fmt.Sprintf("— witness.example %s\n", base64.StdEncoding.EncodeToString(fmt.Append(nil, "a signature ", i)))
		if err := flood.Publish(t.Context(), append(signed[0][:len(signed[0]):len(signed[0])], junk...)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "none was heard", func() bool { return victim.told.Load() > 0 })
	time.Sleep(500 * time.Millisecond) // for further messages
	if looks, told := victim.looks.Load(), victim.told.Load(); looks != 1 || told != 1 {
		t.Errorf("%d variants cost %d looks, and were %d checkpoints", variants, looks, told)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the next heartbeats
	defer cancel()
	if _, err := heard.Next(ctx); err != nil {
		t.Errorf("none was handed on: %v", err)
	}
	if n := count(t, heard); n != 0 {
		t.Errorf("%d more messages were handed on", n)
	}
}

// count empties a subscription.
func count(t *testing.T, sub *pubsub.Subscription) (n int) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := sub.Next(ctx)
		cancel()
		if err != nil {
			return n
		}
		n++
	}
}

// Variants with a bad signature that come before the honest checkpoint do not
// keep it out, and soon cost no signature check any more; the same holds for
// messages that are not notes.
func TestBadVariantsDoNotKeepTheHonestOut(t *testing.T) {
	t.Parallel()
	l, signed := signedBlocks(t, 1)
	victim := newListener(t, l)
	_, flood, _ := talker(t, victim.Host)
	_, honest, _ := talker(t, victim.Host)
	text, lines, _ := strings.Cut(string(signed[0]), "\n\n")
	first, rest, _ := strings.Cut(lines, "\n")
	name := first[:strings.LastIndexByte(first, ' ')]
	good, err := base64.StdEncoding.DecodeString(first[len(name)+1:])
	if err != nil {
		t.Fatal(err)
	}
	for i := range variants {
		bad := append([]byte{}, good...)
		bad[4+i%64] ^= byte(1 + i/64)
		m := text + "\n\n" + name + " " + base64.StdEncoding.EncodeToString(bad) + "\n" + rest
		if i%2 == 0 {
			m = string(signed[0]) + fmt.Sprintf("not a signature %d\n", i)
		}
		if err := flood.Publish(t.Context(), []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	if told := victim.told.Load(); told != 0 {
		t.Fatalf("%d bad variants were accepted", told)
	}
	looks := victim.looks.Load()
	if looks == 0 || looks > 64 { // those under way before the first was refused count too
		t.Errorf("%d bad variants cost %d looks", variants, looks)
	}
	if err := honest.Publish(t.Context(), signed[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the honest checkpoint was kept out", func() bool { return victim.told.Load() == 1 })
}

// A publisher in the middle of a star reaches all at the first try.
func TestAStarHearsItsPublisher(t *testing.T) {
	t.Parallel()
	const subscribers, checkpoints = 30, 5
	l, signed := signedBlocks(t, checkpoints)
	publisher := newListener(t, l)
	var subs []*pubsub.Subscription
	for range subscribers {
		_, _, sub := talker(t, publisher.Host)
		subs = append(subs, sub)
	}
	eventually(t, "not all have subscribed", func() bool { return len(publisher.topic.ListPeers()) == subscribers })
	time.Sleep(heartbeats)
	for _, s := range signed {
		if err := publisher.Gossip(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	for i, sub := range subs {
		if n := count(t, sub); n != checkpoints {
			t.Errorf("subscriber %d heard %d of %d checkpoints", i, n, checkpoints)
		}
	}
}
