package p2ptest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// hostileEnv names what a hostile process does, and hostileConfig how.
const (
	hostileEnv    = "PYRSIA_HOSTILE"
	hostileConfig = "PYRSIA_HOSTILE_CONFIG"
)

type hostileSettings struct {
	Dir       string
	Network   string   // the name of its ledger
	Bootstrap []string // with the victim's address first
	OpenAddr  string   // of the victim
	List      digest.Digest
}

// hostile is the main function of a hostile process.
func hostile(kind string) error {
	var s hostileSettings
	if err := json.Unmarshal([]byte(os.Getenv(hostileConfig)), &s); err != nil {
		return err
	}
	ctx := context.Background()
	switch kind {
	case "flood":
		return flood(ctx, s)
	case "records":
		return bogusRecords(ctx, s)
	case "oversize":
		return oversize(ctx, s)
	case "stranger":
		s.Network = "ledger.example/another"
	}
	h, err := join(ctx, s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { misbehave(kind, w, r) }))
	if err != nil {
		return err
	}
	fmt.Println(h.Addrs()[0].String() + "/p2p/" + h.ID().String())
	select {}
}

func join(ctx context.Context, s hostileSettings, handler http.Handler) (*p2p.Host, error) {
	h, err := p2p.New(ctx, p2p.Config{
		KeyFile: filepath.Join(s.Dir, "key"), Listen: []string{"/ip4/0.0.0.0/tcp/4001"},
		Bootstrap: s.Bootstrap, Network: s.Network,
		Essence: func(b []byte) ([]byte, error) { return b, nil },
		Check:   func([]byte) error { return nil }, Holds: func(digest.Digest) bool { return true },
		Joined: func() {}, OnCheckpoint: func(peer.ID) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return h, h.Start(handler)
}

// misbehave answers every request of a node in one bad way.
func misbehave(kind string, w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && kind != "endless" {
		want, _ := io.ReadAll(r.Body)
		for i := range 8 * len(want) {
			if want[i/8]>>(i%8)&1 == 1 { // it has every piece, so it says
				fmt.Fprintf(w, `{"piece":%d}`, i)
				return
			}
		}
		return
	}
	length := int64(4 << 20)
	code := http.StatusOK
	if first, last, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); ok {
		a, _ := strconv.ParseInt(first, 10, 64)
		b, _ := strconv.ParseInt(last, 10, 64)
		length, code = b-a+1, http.StatusPartialContent
	}
	switch kind {
	case "wrong":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		_, _ = io.CopyN(w, rand.Reader, length)
	case "short":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		_, _ = io.CopyN(w, rand.Reader, length/2)
		panic(http.ErrAbortHandler)
	case "endless":
		w.WriteHeader(code)
		_, _ = io.Copy(w, rand.Reader)
	case "slow":
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(code)
		for range length {
			if _, err := w.Write([]byte{0}); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(time.Second)
		}
	default: // it lied, or is of another network
		http.Error(w, "no", http.StatusNotFound)
	}
}

// flood opens as many connections as it gets, to each port of the victim.
func flood(ctx context.Context, s hostileSettings) error {
	info, err := peer.AddrInfoFromString(s.Bootstrap[0])
	if err != nil {
		return err
	}
	hostname, _, err := net.SplitHostPort(s.OpenAddr)
	if err != nil {
		return err
	}
	targets := []string{s.OpenAddr, net.JoinHostPort(hostname, "4001"), net.JoinHostPort(hostname, "5000")}
	var held []net.Conn
	for i := range 6000 {
		c, err := net.DialTimeout("tcp", targets[i%len(targets)], time.Second)
		if err == nil {
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n")) // and never the rest
			held = append(held, c)
		}
	}
	var hosts []host.Host
	for range 300 {
		h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ResourceManager(nil))
		if err != nil {
			return err
		}
		dial, cancel := context.WithTimeout(ctx, time.Second)
		_ = h.Connect(dial, *info) // being refused is the point
		cancel()
		hosts = append(hosts, h)
	}
	fmt.Println("ready", len(held), len(hosts))
	select {}
}

// bogusRecords claims 10,000 keys for itself, and the test's artifact for a
// hundred identities that cannot be reached.
func bogusRecords(ctx context.Context, s hostileSettings) error {
	sum := sha256.Sum256([]byte(s.Network))
	prefix := protocol.ID("/pyrsia/" + hex.EncodeToString(sum[:8]))
	key, err := multihash.FromHexString("1220" + s.List.Encoded())
	if err != nil {
		return err
	}
	for i := range 101 {
		h, err := libp2p.New(libp2p.NoListenAddrs)
		if err != nil {
			return err
		}
		for _, target := range s.Bootstrap {
			info, err := peer.AddrInfoFromString(target)
			if err != nil {
				return err
			}
			// It speaks the network's protocol, so that it is not sent away.
			h.SetStreamHandler(prefix+"/http/1", func(s network.Stream) { _ = s.Reset() })
			if h.Connect(ctx, *info) != nil {
				continue // the node has had enough connections from here
			}
			claims := [][]byte{key}
			if i == 0 {
				for n := range 10_000 {
					sum := sha256.Sum256(fmt.Append(nil, n))
					claim, err := multihash.Encode(sum[:], multihash.SHA2_256)
					if err != nil {
						return err
					}
					claims = append(claims, claim)
				}
			}
			if err := claim(ctx, h, info.ID, prefix+"/kad/1.0.0", claims); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	select {}
}

// claim sends ADD_PROVIDER messages with an unused address.
func claim(ctx context.Context, h host.Host, to peer.ID, kad protocol.ID, keys [][]byte) error {
	stream, err := h.NewStream(ctx, to, kad)
	if err != nil {
		return err
	}
	defer stream.Close()
	nowhere := multiaddr.StringCast("/ip4/203.0.113.7/tcp/4001")
	for _, key := range keys {
		m := pb.NewMessage(pb.Message_ADD_PROVIDER, key, 0)
		m.ProviderPeers = pb.RawPeerInfosToPBPeers([]peer.AddrInfo{{ID: h.ID(), Addrs: []multiaddr.Multiaddr{nowhere}}})
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if _, err := stream.Write(append(binary.AppendUvarint(nil, uint64(len(data))), data...)); err != nil {
			return nil // cut off: the node defends itself
		}
	}
	return nil
}

// oversize sends each protocol messages that are too large or make no sense.
func oversize(ctx context.Context, s hostileSettings) error {
	info, err := peer.AddrInfoFromString(s.Bootstrap[0])
	if err != nil {
		return err
	}
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	if err := h.Connect(ctx, *info); err != nil {
		return err
	}
	protocols, err := h.Peerstore().GetProtocols(info.ID)
	if err != nil {
		return err
	}
	huge := append([]byte("POST /pieces/sha256/00 HTTP/1.1\r\nContent-Length: 999999999\r\nHost: "), make([]byte, 1<<20)...)
	for range 20 {
		for _, p := range protocols {
			for _, begin := range [][]byte{{0xff, 0xff, 0xff, 0x7f}, huge} { // a length of 256 MiB
				send(ctx, h, info.ID, p, begin)
			}
		}
		if h.Connect(ctx, *info) != nil {
			break // sent away
		}
	}
	fmt.Println("ready", len(protocols))
	select {}
}

func send(ctx context.Context, h host.Host, id peer.ID, p protocol.ID, begin []byte) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stream, err := h.NewStream(ctx, id, p)
	if err != nil {
		return
	}
	_ = stream.SetDeadline(time.Now().Add(time.Second))
	if _, err := stream.Write(begin); err == nil {
		_, _ = io.CopyN(stream, rand.Reader, 8<<20)
	}
	_ = stream.Reset()
}

// startHostile starts a hostile process on a host of its own, and returns
// what it printed when it was ready.
func startHostile(t *testing.T, w *testnet.Env, kind string, s hostileSettings) string {
	t.Helper()
	h, err := w.Host("hostile")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.Dir, s.Network = t.TempDir(), testnet.Origin
	config, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.WithoutCancel(t.Context()), self)
	cmd.Env = append(os.Environ(), hostileEnv+"="+kind, hostileConfig+"="+string(config))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := testnet.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ready := make(chan string, 1)
	go func() {
		line := make([]byte, 1024)
		n, _ := out.Read(line)
		ready <- strings.TrimSpace(string(line[:n]))
	}()
	select {
	case line := <-ready:
		if line == "" {
			t.Fatalf("hostile process %s has ended", kind)
		}
		return strings.Replace(line, "/ip4/127.0.0.1/", "/ip4/"+h.IP+"/", 1)
	case <-time.After(60 * time.Second):
		t.Fatalf("hostile process %s is not ready", kind)
	}
	return ""
}

// Peers that lie in every way: a pull completes from honest ones, and without
// any it fails, soon and clearly.
func TestHostilePeers(t *testing.T) {
	for _, kind := range []string{"wrong", "short", "endless", "slow", "liar", "stranger"} {
		t.Run(kind, func(t *testing.T) { testHostile(t, kind) })
	}
}

const (
	maxVictimMemory = 256 // MiB
	maxRefusal      = 45 * time.Second
)

func testHostile(t *testing.T, kind string) {
	w := newEnv(t)
	image := published(t, w, "image:1", 20*mib, 100<<10, 200<<10, 300<<10)
	other := published(t, w, "other:1", 20*mib, 100<<10)
	var join []string
	for range 3 {
		join = append(join, startHostile(t, w, kind, hostileSettings{Bootstrap: []string{w.Publisher.Address()}}))
	}
	victim, err := w.AddMirror(t.Context(), append(join, w.Publisher.Address()))
	if err != nil {
		t.Fatal(err)
	}
	awaitBlocks(t, 2, victim)
	if kind != "stranger" {
		awaitPeers(t, victim, 4)
	}
	took := pullAll(t, image, victim)
	wrong, err := victim.Metric(t.Context(), `pyrsia_transfer_piece_errors_total{cause="wrong"}`)
	if err != nil || kind == "wrong" && wrong == 0 {
		t.Errorf("%v wrong pieces, %v", wrong, err)
	}
	t.Logf("with an honest peer: %s", took.Round(time.Millisecond))

	// The honest peer goes: what is not there yet must be refused.
	if err := w.Publisher.Kill(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = fetch(t.Context(), victim.Mirror(other.Blob(0)), other.Layers[0])
	if err == nil || strings.Contains(err.Error(), errUnverified.Error()) || time.Since(start) > maxRefusal {
		t.Errorf("without an honest peer: %v after %s", err, time.Since(start))
	}
	t.Logf("without: %v after %s", err, time.Since(start).Round(time.Millisecond))
	checkMemory(t, victim)
}

func checkMemory(t *testing.T, n *testnet.Node) {
	t.Helper()
	mem, err := testnet.Memory(n.PID(), "VmHWM")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s had at most %d MiB in memory", n.Name, mem/mib)
	if mem > maxVictimMemory*mib {
		t.Errorf("%s had %d MiB in memory, want at most %d", n.Name, mem/mib, maxVictimMemory)
	}
}

// Attacks on the node itself: it goes on serving.
func TestAttacks(t *testing.T) {
	for _, kind := range []string{"flood", "records", "oversize"} {
		t.Run(kind, func(t *testing.T) {
			w := newEnv(t)
			image := published(t, w, "image:1", 20*mib, 100<<10)
			other := published(t, w, "other:1", 8*mib)
			nodes := mirrors(t, w, 2)
			awaitBlocks(t, 2, nodes...)
			pullAll(t, image, nodes[0])
			lines := startHostile(t, w, kind, hostileSettings{
				Bootstrap: []string{nodes[1].Address(), w.Publisher.Address()},
				OpenAddr:  fmt.Sprintf("%s:%d", nodes[1].IP, testnet.PortOpen),
				List:      pieceList(t, w, image),
			})
			t.Log(kind, lines)
			took := pullAll(t, image, nodes[1])
			t.Logf("under attack: %s", took.Round(time.Millisecond))
			// A node that joins now has to find its way through it.
			third, err := w.AddMirror(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			awaitBlocks(t, 2, third)
			pullAll(t, other, third)
			checkMemory(t, nodes[1])
			checkMemory(t, w.Publisher)
		})
	}
}

// pieceList is what providers of an image announce.
func pieceList(t *testing.T, w *testnet.Env, image *testnet.Image) digest.Digest {
	t.Helper()
	var blocks []ledger.BlockJSON
	if err := testnet.GetJSON(t.Context(), w.Publisher.Open("/api/v1/artifacts?digest="+image.Index.String()), &blocks); err != nil || len(blocks) != 1 {
		t.Fatalf("%d blocks, %v", len(blocks), err)
	}
	entry, err := ledger.ParseEntry([]byte(blocks[0].Entry))
	if err != nil {
		t.Fatal(err)
	}
	return entry.Pieces
}
