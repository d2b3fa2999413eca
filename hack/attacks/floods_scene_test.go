package attacks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	floodBlocks = 1200 // of the ledger, 500 of them of one repository
	appBlocks   = 500
	pieceSize   = 4 << 20
	bigPieces   = 12
)

// scene is a mirror that is attacked, in a process of its own, and the honest
// peer that it has: this process, with a ledger of its own.
type scene struct {
	t       *testing.T
	program string
	ledger  *replica.Writer
	key     string
	blobs   map[string][]byte // by digest, in hexadecimal
	big     digest.Digest
	victim  *rig.Node
	gossip  *pubsub.Topic
}

func newScene(t *testing.T, program string) *scene {
	t.Helper()
	s := &scene{t: t, program: program, blobs: map[string][]byte{}}
	skey, vkey, err := ledger.GenerateKey("floods.example/ledger")
	if err != nil {
		t.Fatal(err)
	}
	s.key = vkey
	if s.ledger, err = replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.ledger.Close() })
	s.publish()
	r := &rig.Rig{Dir: t.TempDir(), Pyrsia: program}
	t.Cleanup(func() { _ = r.Stop() })
	mirror := freePort(t)
	if s.victim, err = r.StartNode(t.Context(), "victim", "--role", "Mirror", "--ledger-key", vkey, "--mirror-addr", mirror, "--access-log=false"); err != nil {
		t.Fatal(err)
	}
	s.victim.Mirror = mirror
	s.honest()
	s.await(2*time.Minute, "the mirror has no ledger", func() bool { return s.has(floodBlocks - 1) })
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// publish fills the ledger: images of seven platforms, each with a piece list
// of its own. The first one has a layer of 48 MiB.
func (s *scene) publish() {
	var group errgroup.Group
	group.SetLimit(256)
	content := make([]byte, bigPieces*pieceSize)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(content); err != nil {
		s.t.Fatal(err)
	}
	s.big = s.keep(content)
	var pieces []string
	for i := range bigPieces {
		pieces = append(pieces, digest.FromBytes(content[i*pieceSize:(i+1)*pieceSize]).String())
	}
	for i := range floodBlocks {
		name := fmt.Sprintf("docker.io/library/app:%d", i)
		if i >= appBlocks {
			name = fmt.Sprintf("docker.io/library/other%d:%d", i%7, i)
		}
		manifest := s.keep(fmt.Appendf(nil, `{"schemaVersion":2,"image":%d}`, i))
		list := fmt.Sprintf(`{"version":1,"pieceSize":%d,"blobs":[{"digest":%q,"size":%d,"mediaType":"application/vnd.oci.image.index.v1+json"}`,
			pieceSize, manifest, len(s.blobs[manifest.Encoded()]))
		if i == 0 {
			list += fmt.Sprintf(`,{"digest":%q,"size":%d,"mediaType":"application/octet-stream","pieces":["%s"]}`, s.big, len(content), strings.Join(pieces, `","`))
		}
		e := s.entry(name, manifest, s.keep([]byte(list+"]}")))
		group.Go(func() error { _, err := s.ledger.Append(s.t.Context(), e); return err })
	}
	if err := group.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) entry(name string, manifest, list digest.Digest) *ledger.AddArtifact {
	e := &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: name, Digest: manifest, MediaType: "application/vnd.oci.image.index.v1+json",
		Size: int64(len(s.blobs[manifest.Encoded()])), Pieces: list, Upstream: "registry.example", Time: time.Unix(1e9, 0).UTC(),
	}
	for _, arch := range []string{"amd64", "arm64", "386", "ppc64le", "s390x", "riscv64", "mips64le"} {
		d := digest.FromString(name + arch)
		e.Platforms = append(e.Platforms, ledger.Platform{Platform: "linux/" + arch, Digest: d, Config: digest.FromString(name + arch + "c"), Size: 1})
	}
	return e
}

func (s *scene) keep(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	s.blobs[d.Encoded()] = b
	return d
}

// protocolOf are the names of the network's protocols.
func (s *scene) protocolOf(name string) string {
	sum := sha256.Sum256([]byte(s.ledger.Origin()))
	return "/pyrsia/" + hex.EncodeToString(sum[:8]) + name
}

// join connects a peer that answers HTTP over libp2p to the victim.
func (s *scene) join(h http.Handler) host.Host {
	s.t.Helper()
	peerHost, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = peerHost.Close() })
	l, err := gostream.Listen(peerHost, protocol.ID(s.protocolOf("/http/1")))
	if err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = http.Serve(l, h) }() // until its host is closed
	info, err := peer.AddrInfoFromString(s.victim.Peer)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := peerHost.Connect(s.t.Context(), *info); err != nil {
		s.t.Fatal(err)
	}
	return peerHost
}

// topic joins the gossip with a host.
func (s *scene) topic(h host.Host) *pubsub.Topic {
	s.t.Helper()
	ps, err := pubsub.NewGossipSub(s.t.Context(), h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithPeerOutboundQueueSize(10_000), pubsub.WithFloodPublish(true), pubsub.WithMessageIdFn(func(m *pb.Message) string { return string(m.GetData()) }))
	if err != nil {
		s.t.Fatal(err)
	}
	topic, err := ps.Join(s.protocolOf("/checkpoint"))
	if err != nil {
		s.t.Fatal(err)
	}
	return topic
}

// honest joins the peer that has the ledger and all content.
func (s *scene) honest() {
	mux := http.NewServeMux()
	mux.Handle("GET /", s.ledger.Handler())
	mux.HandleFunc("GET /peer", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"complete": true, "peers": []string{}})
	})
	mux.HandleFunc("GET /blobs/sha256/{hex}", func(w http.ResponseWriter, r *http.Request) {
		content, ok := s.blobs[r.PathValue("hex")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.PathValue("hex") == s.big.Encoded() && r.Header.Get("Range") != "bytes=0-4194303" {
			time.Sleep(2 * time.Second) // so that it stays under way
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	mux.HandleFunc("POST /pieces/sha256/{hex}", func(w http.ResponseWriter, r *http.Request) {
		want, _ := io.ReadAll(r.Body)
		for i := range 8 * len(want) {
			if want[i/8]>>(i%8)&1 == 1 {
				fmt.Fprintf(w, `{"piece":%d}`, i)
				return
			}
		}
	})
	h := s.join(mux)
	s.gossip = s.topic(h)
	if _, err := s.gossip.Subscribe(); err != nil {
		s.t.Fatal(err)
	}
}

// has tells whether the victim has a block.
func (s *scene) has(height int64) bool {
	return rig.Get(s.t.Context(), fmt.Sprintf("http://%s/api/v1/blocks/%d", s.victim.Open, height)) == nil
}

func (s *scene) await(within time.Duration, otherwise string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal(otherwise)
		}
	}
}

// cpu is the time that the victim has computed for.
func (s *scene) cpu() time.Duration {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.victim.PID()))
	if err != nil {
		s.t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // proc_pid_stat(5): utime and stime are 14 and 15
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		s.t.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // clock ticks
}

// memory is what the victim holds, in MiB.
func (s *scene) memory() int {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.victim.PID()))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return kib >> 10
}

// ask makes one request and returns the status and the body.
func (s *scene) ask(ctx context.Context, url string, header ...string) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // what was cut counts as far as it came
	return resp.StatusCode, body
}

func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
