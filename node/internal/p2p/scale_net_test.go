package p2p

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	gossippb "github.com/libp2p/go-libp2p-pubsub/pb"
	coreconnmgr "github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// simulation is a network of nodes in this process: each is a Host as it runs
// in production, on libp2p's network in memory in place of TCP and QUIC.
type simulation struct {
	mock  mocknet.Mocknet
	nodes []*Host
	tally *tally

	dialling sync.Mutex // guards what follows; two peers never dial each other simultaneously
	closed   bool
}

func newSimulation(latency time.Duration) *simulation {
	s := &simulation{mock: mocknet.New(), tally: newTally()}
	s.mock.SetLinkDefaults(mocknet.LinkOptions{Latency: latency})
	return s
}

// add starts a node that joins through others.
func (s *simulation) add(t *testing.T, through ...*Host) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := len(s.nodes) + 1
	addr := multiaddr.StringCast(fmt.Sprintf("/ip4/1.1.%d.%d/tcp/4001", n>>8, n&0xff))
	mocked, err := s.mock.AddPeer(key, addr)
	if err != nil {
		t.Fatal(err)
	}
	conns, err := newConnManager()
	if err != nil {
		t.Fatal(err)
	}
	mocked.Network().Notify(conns.Notifee())
	config := Config{
		Network:      "scale",
		Essence:      func(b []byte) ([]byte, error) { return b, nil },
		Check:        func([]byte) error { return nil },
		Holds:        func(digest.Digest) bool { return true },
		Joined:       func() {},
		OnCheckpoint: func(from peer.ID) { s.tally.reached(mocked.ID(), from) },
		Log:          slog.New(slog.DiscardHandler),
	}
	for _, h := range through {
		config.Bootstrap = append(config.Bootstrap, fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID()))
	}
	h := newHost(t.Context(), config)
	h.host = &simulatedHost{Host: mocked, simulation: s, conns: conns}
	if err := h.Start(http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	s.nodes = append(s.nodes, h)
}

// close ends all nodes.
func (s *simulation) close(t *testing.T) {
	s.dialling.Lock()
	s.closed = true
	s.dialling.Unlock()
	var group errgroup.Group
	group.SetLimit(dials)
	for _, h := range s.nodes {
		group.Go(h.Close)
	}
	if err := errors.Join(group.Wait(), s.mock.Close()); err != nil {
		t.Error(err)
	}
}

// dial connects two nodes, which are linked only now: to link every two of
// them before would take more memory than the nodes.
func (s *simulation) dial(ctx context.Context, from host.Host, to peer.ID) error {
	s.dialling.Lock()
	defer s.dialling.Unlock()
	if s.closed {
		return errors.New("the simulation has ended")
	}
	if from.ID() == to || from.Network().Connectedness(to) == network.Connected {
		return nil
	}
	if len(s.mock.LinksBetweenPeers(from.ID(), to)) == 0 {
		if _, err := s.mock.LinkPeers(from.ID(), to); err != nil {
			return err
		}
	}
	_, err := from.Network().DialPeer(ctx, to)
	return err
}

// simulatedHost is libp2p's host on a network in memory, with the bounds of a
// real one, and with a count of what it sends.
type simulatedHost struct {
	host.Host
	simulation *simulation
	conns      *connmgr.BasicConnMgr
}

// ConnManager implements host.Host.
func (h *simulatedHost) ConnManager() coreconnmgr.ConnManager { return h.conns }

// Connect implements host.Host.
func (h *simulatedHost) Connect(ctx context.Context, info peer.AddrInfo) error {
	if err := h.simulation.dial(ctx, h.Host, info.ID); err != nil {
		return err
	}
	return h.Host.Connect(ctx, info)
}

// NewStream implements host.Host.
func (h *simulatedHost) NewStream(ctx context.Context, to peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	if no, _ := network.GetNoDial(ctx); !no {
		if err := h.simulation.dial(ctx, h.Host, to); err != nil {
			return nil, err
		}
	}
	stream, err := h.Host.NewStream(ctx, to, protocols...)
	if err != nil {
		return nil, err
	}
	t := h.simulation.tally
	switch name := string(stream.Protocol()); {
	case strings.HasSuffix(name, "/kad/1.0.0"):
		return &tapped{Stream: stream,
			sent:     frames{each: func(b []byte) { t.dht(b, h.ID(), to, false) }},
			received: frames{each: func(b []byte) { t.dht(b, h.ID(), to, true) }}}, nil
	case strings.HasPrefix(name, "/meshsub/"):
		return &tapped{Stream: stream,
			sent:     frames{each: t.gossip},
			received: frames{each: func([]byte) {}}}, nil
	}
	return stream, nil
}

// Close implements host.Host.
func (h *simulatedHost) Close() error { return errors.Join(h.conns.Close(), h.Host.Close()) }

// tapped is a stream whose messages are counted.
type tapped struct {
	network.Stream
	sent, received frames
}

func (s *tapped) Write(b []byte) (int, error) {
	s.sent.feed(b)
	return s.Stream.Write(b)
}

func (s *tapped) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	s.received.feed(b[:n])
	return n, err
}

// frames cuts a stream into messages, each of which follows its length as a
// varint.
type frames struct {
	rest []byte
	each func([]byte)
}

func (f *frames) feed(b []byte) {
	f.rest = append(f.rest, b...)
	for {
		size, n := binary.Uvarint(f.rest)
		if n <= 0 || uint64(len(f.rest)-n) < size {
			break
		}
		f.each(f.rest[n:][:size])
		f.rest = f.rest[n:][size:]
	}
	if len(f.rest) == 0 {
		f.rest = nil // most streams are idle most of the time
	}
}

// tally counts what the nodes send for the keys and the checkpoint that are
// being measured.
type tally struct {
	mu     sync.Mutex // guards what follows
	keys   map[string]*keyTally
	spread *spreadTally
}

// keyTally is of one key in the DHT.
type keyTally struct {
	holder   peer.ID
	asker    peer.ID
	announce int             // messages: requests, answers, and the records
	size     int             // of these, in bytes
	records  int             // of the messages, those that put a record
	asked    int             // requests of the asker
	needed   int             // of these, until the holder was named
	depth    map[peer.ID]int // how far from the asker it has heard of a node
	hops     int             // to the first node that named the holder; -1 before
}

// spreadTally is of one checkpoint.
type spreadTally struct {
	checkpoint string
	copies     int                 // that were sent
	notes      int                 // messages that tell of it, or ask for it or against it
	from       map[peer.ID]peer.ID // the sender of a node's first copy
}

func newTally() *tally { return &tally{keys: map[string]*keyTally{}} }

// watch begins to count what is sent for a key.
func (t *tally) watch(id cid.Cid, holder, asker peer.ID) *keyTally {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := &keyTally{holder: holder, asker: asker, depth: map[peer.ID]int{}, hops: -1}
	t.keys[string(id.Hash())] = k
	return k
}

// dht counts a message that asker sent to a node, or its answer.
func (t *tally) dht(b []byte, asker, asked peer.ID, answer bool) {
	m := new(dhtpb.Message)
	if proto.Unmarshal(b, m) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keys[string(m.GetKey())]
	if k == nil {
		return
	}
	switch m.GetType() {
	case dhtpb.Message_FIND_NODE, dhtpb.Message_ADD_PROVIDER:
		k.announce++
		k.size += len(b)
		if m.GetType() == dhtpb.Message_ADD_PROVIDER {
			k.records++
		}
	case dhtpb.Message_GET_PROVIDERS:
		if asker != k.asker {
			return
		}
		if !answer {
			k.asked++
			return
		}
		depth := k.depth[asked]
		for _, p := range m.GetCloserPeers() {
			if _, ok := k.depth[peer.ID(p.GetId())]; !ok {
				k.depth[peer.ID(p.GetId())] = depth + 1
			}
		}
		for _, p := range m.GetProviderPeers() {
			if k.hops < 0 && peer.ID(p.GetId()) == k.holder {
				k.hops, k.needed = depth, k.asked
			}
		}
	}
}

// gossip counts what a node sent of the checkpoint.
func (t *tally) gossip(b []byte) {
	rpc := new(gossippb.RPC)
	if proto.Unmarshal(b, rpc) != nil || len(rpc.GetPublish()) == 0 && rpc.GetControl() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spread == nil {
		return
	}
	for _, m := range rpc.GetPublish() {
		if string(m.GetData()) == t.spread.checkpoint {
			t.spread.copies++
		}
	}
	// No message but those about the checkpoint is in any node's history.
	c := rpc.GetControl()
	t.spread.notes += len(c.GetIhave()) + len(c.GetIwant()) + len(c.GetIdontwant())
}

// reached notes that a node has the checkpoint.
func (t *tally) reached(node, from peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spread == nil {
		return
	}
	if _, ok := t.spread.from[node]; !ok {
		t.spread.from[node] = from
	}
}
