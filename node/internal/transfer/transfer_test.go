package transfer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// Several holders of a blob deliver it together, each piece once, to any number
// of requests.
func TestPiecesComeFromSeveralPeers(t *testing.T) {
	blob, data := newBlob(t, 24*pieces.Size+5)
	var holders []*testPeer
	for range 3 {
		p := newPeer(t, setUp{bandwidth: Bandwidth{Upload: 40 << 20}})
		p.put(t, blob, data)
		holders = append(holders, p)
	}
	p := newPeer(t, setUp{join: holders})
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() { p.read(t, blob) })
	}
	readers.Wait()
	if got := p.metric(t, "pyrsia_transfer_bytes_total", "peers"); got != float64(blob.Size) {
		t.Errorf("%v bytes were fetched, of %d", got, blob.Size)
	}
	for i, h := range holders {
		q, ok := p.host.Peer(h.host.ID())
		if !ok {
			t.Fatal("a holder has gone")
		}
		if share := q.Info().Received; share < pieces.Size {
			t.Errorf("holder %d delivered %d bytes", i, share)
		}
	}
	if twice := p.metric(t, "pyrsia_transfer_duplicate_bytes_total", ""); twice > 3*pieces.Size {
		t.Errorf("%v bytes came twice", twice)
	}
}

// needsTime skips a test whose claim is one of time.
func needsTime(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("the race detector slows down what this test measures")
	}
}

// Nodes that start together make the only holder send little more than one
// copy, even of a blob of one piece.
func TestNodesThatStartTogetherTrade(t *testing.T) {
	needsTime(t)
	for name, size := range map[string]int64{"one piece": 3 << 20, "pieces": 5 * pieces.Size} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, size)
			holder := newPeer(t, setUp{bandwidth: Bandwidth{Upload: 20 << 20}})
			holder.put(t, blob, data)
			all := []*testPeer{holder}
			for range 6 {
				all = append(all, newPeer(t, setUp{join: all}))
			}
			var readers sync.WaitGroup
			for _, p := range all[1:] {
				readers.Go(func() { p.read(t, blob) })
			}
			readers.Wait()
			if sent := holder.metric(t, "pyrsia_transfer_sent_bytes_total", ""); sent > 2*float64(size) {
				t.Errorf("the holder sent %.1f copies to 6 nodes", sent/float64(size))
			}
		})
	}
}

// Nodes that look for the same blob do not wait for each other when no node has
// it.
func TestNobodyHasIt(t *testing.T) {
	blob, _ := newBlob(t, 2*pieces.Size)
	var all []*testPeer
	for range 3 {
		all = append(all, newPeer(t, setUp{join: all}))
	}
	var bring sync.WaitGroup
	for _, p := range all {
		bring.Go(func() {
			if err := p.Bring(bounded(t, stallTimeout/2), blob, key); !errors.Is(err, ErrUnavailable) {
				t.Errorf("bringing what nobody has: %v", err)
			}
		})
	}
	bring.Wait()
}

// What comes wrong over plain HTTP may be the doing of anyone on the way: the
// peer is asked again over libp2p, and not banned.
func TestAlteredOnTheWay(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 3*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, size)
			holder := newPeer(t, setUp{plain: wrongBytes})
			holder.put(t, blob, data)
			p := newPeer(t, setUp{join: []*testPeer{holder}})
			p.awaitPlain(t, holder)
			p.read(t, blob)
			q, _ := p.host.Peer(holder.host.ID())
			if q.Banned() || q.Info().Via != "libp2p" {
				t.Errorf("banned: %v, asked by %s", q.Banned(), q.Info().Via)
			}
			if p.metric(t, "pyrsia_transfer_piece_errors_total", causeAltered) == 0 {
				t.Error("nothing was counted as altered")
			}
		})
	}
}

// A peer that sends wrong content over libp2p is banned, and others deliver.
func TestLiarsAreBanned(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 6*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, size)
			liar := newPeer(t, setUp{libp2p: wrongBytes})
			liar.put(t, blob, data)
			p := newPeer(t, setUp{join: []*testPeer{liar}})
			if err := p.Bring(bounded(t, time.Minute), blob, key); !errors.Is(err, ErrUnavailable) {
				t.Errorf("from a liar alone: %v", err)
			}
			if q, _ := p.host.Peer(liar.host.ID()); q == nil || !q.Banned() {
				t.Error("the liar is not banned")
			}
			honest := newPeer(t, setUp{join: []*testPeer{liar}})
			honest.put(t, blob, data)
			p.awaitPeersOf(t, []*testPeer{honest})
			p.read(t, blob)
		})
	}
}

// A peer that takes its time does not hold up one piece or one small blob for
// long: another is asked.
func TestSlowPeersAreGoneAround(t *testing.T) {
	for name, size := range map[string]int64{"one piece": 1000, "pieces": 3*pieces.Size + 1} {
		t.Run(name, func(t *testing.T) {
			blob, data := newBlob(t, size)
			hangs := func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost { // an offer of the first piece
						_, _ = io.WriteString(w, `{"piece":0}`)
						return
					}
					<-r.Context().Done()
				})
			}
			slow := newPeer(t, setUp{libp2p: hangs})
			honest := newPeer(t, setUp{join: []*testPeer{slow}})
			honest.put(t, blob, data)
			p := newPeer(t, setUp{join: []*testPeer{slow, honest}})
			if err := p.Bring(bounded(t, 15*time.Second), blob, key); err != nil {
				t.Error(err)
			}
		})
	}
}

// A holder keeps back what it has just sent to another peer that can pass it
// on, unless that one has gone or offers nothing.
func TestTheOnlyHolderLeftDelivers(t *testing.T) {
	needsTime(t)
	blob, data := newBlob(t, 12*pieces.Size)
	holder := newPeer(t, setUp{})
	holder.put(t, blob, data)
	first := newPeer(t, setUp{join: []*testPeer{holder}})
	first.read(t, blob)
	first.close()
	second := newPeer(t, setUp{join: []*testPeer{holder}})
	if err := second.Bring(bounded(t, fresh*8/10), blob, key); err != nil {
		t.Error("the receiver has gone:", err)
	}
	if err := second.store.Remove(t.Context(), blob.Digest); err != nil {
		t.Fatal(err)
	}
	third := newPeer(t, setUp{join: []*testPeer{holder}})
	if err := third.Bring(bounded(t, fresh*8/10), blob, key); err != nil {
		t.Error("the receiver has it no more:", err)
	}
}

// A download that ends before its time goes on with what it had.
func TestResume(t *testing.T) {
	blob, data := newBlob(t, 12*pieces.Size)
	holder := newPeer(t, setUp{})
	holder.put(t, blob, data)
	p := newPeer(t, setUp{join: []*testPeer{holder}, bandwidth: Bandwidth{Download: 16 << 20}})
	r, err := p.Open(t.Context(), blob, key)
	if err != nil {
		t.Fatal(err)
	}
	// The first pieces can be read while the others are on their way.
	if _, err := io.CopyN(io.Discard, r, 3*pieces.Size); err != nil {
		t.Fatal(err)
	}
	if p.store.Has(blob.Digest) {
		t.Fatal("the blob was there before its first pieces were read")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	p.close()

	// A piece on disk that is not what it should be is found out.
	partial := filepath.Join(p.dir, "partial", blob.Digest.Encoded())
	f, err := os.OpenFile(partial, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("wrong"), 1000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := newPeer(t, setUp{dir: p.dir, join: []*testPeer{holder}})
	again.read(t, blob)
	if fetched := again.metric(t, "pyrsia_transfer_bytes_total", "peers"); fetched > float64(blob.Size-2*pieces.Size) || fetched < pieces.Size {
		t.Errorf("%v bytes were fetched after the restart, of %d", fetched, blob.Size)
	}
}

func TestBandwidthIsBounded(t *testing.T) {
	const rate = 16 << 20
	blob, data := newBlob(t, 5*pieces.Size)
	for name, c := range map[string]struct{ holder, client Bandwidth }{
		"upload":   {Bandwidth{Upload: rate}, Bandwidth{}},
		"download": {Bandwidth{}, Bandwidth{Download: rate}},
		"peer":     {Bandwidth{}, Bandwidth{Peer: rate}},
	} {
		t.Run(name, func(t *testing.T) {
			holder := newPeer(t, setUp{bandwidth: c.holder, plain: asItIs})
			holder.put(t, blob, data)
			p := newPeer(t, setUp{bandwidth: c.client, join: []*testPeer{holder}})
			start := time.Now()
			p.read(t, blob)
			if took, least := time.Since(start), time.Duration(float64(blob.Size)/rate*0.9*float64(time.Second)); took < least {
				t.Errorf("%d bytes in %s, want at least %s", blob.Size, took, least)
			}
		})
	}
}

// A blob that does not fit is passed on, even if that is only known in the
// middle of it.
func TestDiskWithoutRoom(t *testing.T) {
	blob, data := newBlob(t, 10*pieces.Size)
	holder := newPeer(t, setUp{})
	holder.put(t, blob, data)
	for name, mount := range map[string]func(*testing.T, string){
		"known at once": func(t *testing.T, dir string) {
			run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", 4*pieces.Size), "tmpfs", dir)
		},
		// ext2 cannot reserve what is not written yet.
		"known too late": func(t *testing.T, dir string) {
			image := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(image, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 5*pieces.Size); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.ext2", "-q", "-F", "-m", "0", image)
			run(t, "mount", "-o", "loop", image, dir)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("mounting needs root")
			}
			dir := t.TempDir()
			mount(t, dir)
			t.Cleanup(func() { run(t, "umount", "--lazy", dir) })
			p := newPeer(t, setUp{dir: dir, join: []*testPeer{holder}, bandwidth: Bandwidth{Download: 64 << 20}})
			var readers sync.WaitGroup
			for range 3 {
				readers.Go(func() { p.read(t, blob) })
			}
			readers.Wait()
			if p.store.Has(blob.Digest) {
				t.Error("there was room")
			}
			if err := p.Bring(bounded(t, time.Minute), blob, key); !errors.Is(err, store.ErrFull) {
				t.Errorf("bringing it into the store: %v", err)
			}
		})
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
