package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"
	"github.com/multiformats/go-multiaddr"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// crowd are peers of one node that all answer alike and know no other node.
func crowd(t *testing.T, to *testPeer, n int, answer http.HandlerFunc) {
	t.Helper()
	id := sha256.Sum256([]byte("transfer"))
	name := protocol.ID("/pyrsia/" + hex.EncodeToString(id[:8]) + "/http/1")
	for range n {
		h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ConnectionGater(onlyTo(to.host.ID())))
		if err != nil {
			t.Fatal(err)
		}
		l, err := gostream.Listen(h, name)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: answer}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _, _ = s.Close(), h.Close() })
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			// Again, if it was sent away before it had said its protocols.
			_ = h.Connect(t.Context(), peer.AddrInfo{ID: to.host.ID(), Addrs: to.host.Addrs()})
			if _, ok := to.host.Peer(h.ID()); ok {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("one of the crowd is not connected")
			}
		}
	}
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

// askedLast makes a peer that is connected to one which has a blob, and to a
// crowd, all of whom it asks before.
func askedLast(t *testing.T, blob pieces.Blob, data []byte, n int, answer http.HandlerFunc) (p *testPeer) {
	t.Helper()
	honest := newPeer(t, setUp{})
	honest.put(t, blob, data)
	p = newPeer(t, setUp{join: []*testPeer{honest}})
	crowd(t, p, n, answer)
	q, ok := p.host.Peer(honest.host.ID())
	if !ok {
		t.Fatal("the honest peer has gone")
	}
	q.Avoid(time.Hour)
	return p
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func lack(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) }

// takeAll offers the first missing piece.
func takeAll(w http.ResponseWriter, r *http.Request) {
	want, _ := io.ReadAll(r.Body)
	for i := range 8 * len(want) {
		if pieces.Set(want).Has(i) {
			fmt.Fprintf(w, `{"piece":%d}`, i)
			return
		}
	}
}

// trickle offers every piece, and sends just more than what a peer is given up for.
func trickle(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		takeAll(w, r)
		return
	}
	var a, b int64
	if _, err := fmt.Sscanf(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "%d-%d", &a, &b); err != nil {
		lack(w, r)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(b-a+1))
	w.WriteHeader(http.StatusPartialContent)
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, slowBytes/4)); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		time.Sleep(slowWindow / 5)
	}
}

// Peers that hang do not keep a small blob from coming.
func TestHangingPeersKeepNoSmallBlob(t *testing.T) {
	blob, data := newBlob(t, 1000)
	askedLast(t, blob, data, 30, hang).read(t, blob)
}

// Peers that lack a blob, or hang, make room for others in its download.
func TestMembersThatDoNotDeliverMakeRoom(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"lack": lack, "hang": hang} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, 2*pieces.Size)
			askedLast(t, blob, data, maxMembers+6, answer).read(t, blob)
		})
	}
}

// Peers that send hardly anything do not hold what is on its way at most.
func TestTricklingPeersHoldNoDownload(t *testing.T) {
	blob, data := newBlob(t, 2*maxFetching*pieces.Size)
	p := askedLast(t, blob, data, maxInMemory+8, trickle)
	if err := p.Bring(bounded(t, time.Minute), blob, key); err != nil {
		t.Error(err)
	}
}

// A peer that has nothing to offer, and says so immediately, is not asked without a
// pause.
func TestNothingToOfferIsNotAskedForAtOnce(t *testing.T) {
	var asked atomic.Int64
	blob, _ := newBlob(t, 2*pieces.Size)
	p := newPeer(t, setUp{})
	crowd(t, p, 1, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			asked.Add(1)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	_ = p.Bring(bounded(t, 3*time.Second), blob, key) // fails
	if n := asked.Load(); n > 20 {
		t.Errorf("it was asked %d times in 3 s", n)
	}
}
