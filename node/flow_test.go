package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func TestFromUpstreamToAVerifiedPull(t *testing.T) {
	registry := dockerRegistry(t)
	_, want := push(t, registry.Addr, "alpine:3.20", 10<<20) // three pieces a layer
	publisher := newPublisher(t, registry.Addr)
	one := newMirror(t, publisher)
	two := newMirror(t, publisher)

	block := publisher.publish(t, "alpine:3.20")
	verifier, err := ledger.NewVerifier(publisher.ledger.Key())
	if err != nil {
		t.Fatal(err)
	}
	verified, err := ledger.VerifyBlock(verifier, []byte(block.Entry), []byte(block.Proof))
	if err != nil {
		t.Fatal(err)
	}
	if verified.Artifact.Digest != want || verified.Artifact.Artifact != "docker.io/library/alpine:3.20" {
		t.Errorf("block: %+v, want digest %s", verified.Artifact, want)
	}

	// The upstream moves the tag and goes away: clients notice neither.
	push(t, registry.Addr, "alpine:3.20", 1<<10)
	if err := registry.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*started{one, two} {
		m.awaitBlocks(t, 1)
		if got, err := m.pull(t.Context(), "alpine:3.20"); err != nil || got != want {
			t.Errorf("pull: %s, %v, want %s", got, err, want)
		}
	}
	if _, err := one.pull(t.Context(), "unknown:1"); err == nil || !strings.Contains(err.Error(), "is not on the ledger ledger.example/test (1 blocks, the newest ") {
		t.Errorf("pull of an image that is not on the ledger: %v", err)
	}
}

func TestCorruptPeersAreFoundAndGoneAround(t *testing.T) {
	registry := dockerRegistry(t)
	index, want := push(t, registry.Addr, "big:1", 6<<20)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "big:1")
	one := newMirror(t, publisher)
	one.awaitBlocks(t, 1)
	if _, err := one.pull(t.Context(), "big:1"); err != nil {
		t.Fatal(err)
	}
	// Its disk flips a byte in each layer.
	for _, layer := range layersOf(t, index) {
		flip(t, filepath.Join(one.DataDir, "store", "blobs", "sha256", layer.Encoded()))
	}
	liar := startLiar(t, publisher)
	two := newMirror(t, publisher, one.address(), liar)
	two.awaitBlocks(t, 1)
	for _, m := range []*started{one, two} {
		if got, err := m.pull(t.Context(), "big:1"); err != nil || got != want {
			t.Errorf("pull: %s, %v, want %s", got, err, want)
		}
	}
	if one.store.Corrupt() == 0 {
		t.Error("the corrupt blobs were not counted")
	}

	// Without another node to ask, a corrupt blob is refused, and quickly.
	if err := publisher.Node.Close(); err != nil {
		t.Fatal(err)
	}
	layer := layersOf(t, index)[0]
	for _, m := range []*started{one, two} {
		flip(t, filepath.Join(m.DataDir, "store", "blobs", "sha256", layer.Encoded()))
	}
	resp, err := http.Get("http://" + one.MirrorAddr + "/v2/library/big/blobs/" + layer.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "no node that this one can reach has the content") {
		t.Errorf("blob that is corrupt everywhere: %s %.300s", resp.Status, body)
	}
}

// startLiar joins a hostile node: it claims to have every blob and sends
// zeros. Its address is the result.
func startLiar(t *testing.T, publisher *started) string {
	t.Helper()
	liar, err := p2p.New(t.Context(), p2p.Config{
		KeyFile:      filepath.Join(t.TempDir(), "key"),
		Listen:       []string{"/ip4/127.0.0.1/tcp/0"},
		Bootstrap:    []string{publisher.address()},
		Network:      publisher.ledger.Origin(),
		Essence:      func(b []byte) ([]byte, error) { return b, nil },
		Check:        func([]byte) error { return nil },
		Joined:       func() {},
		Holds:        func(digest.Digest) bool { return true },
		OnCheckpoint: func(peer.ID) {},
		Log:          testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	err = liar.Start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		if r.Method == http.MethodPost { // it offers every piece
			want, _ := io.ReadAll(r.Body)
			for i := range 8 * len(want) {
				if want[i/8]>>(i%8)&1 == 1 {
					fmt.Fprintf(w, `{"piece":%d}`, i)
					return
				}
			}
		}
		_, _ = io.CopyN(w, zeros{}, 4<<20)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := liar.Close(); err != nil {
			t.Error(err)
		}
	})
	return liar.Addrs()[0].String() + "/p2p/" + liar.ID().String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func manifestsOf(t *testing.T, index v1.ImageIndex) (out []digest.Digest) {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range m.Manifests {
		out = append(out, digest.Digest(desc.Digest.String()))
	}
	return out
}

func layersOf(t *testing.T, index v1.ImageIndex) (out []digest.Digest) {
	t.Helper()
	for _, d := range manifestsOf(t, index) {
		img, err := index.Image(v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()})
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range manifest.Layers {
			out = append(out, digest.Digest(l.Digest.String()))
		}
	}
	return out
}

func flip(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 1000); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, 1000); err != nil {
		t.Fatal(err)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	mirror := newMirror(t, publisher)
	down := newPublisher(t, freeAddr(t))
	login := newPublisher(t, loginRegistry(t))
	zero := digest.FromString("").String()
	tests := map[string]struct {
		node  *started
		image string
		want  control.Reason
	}{
		"no such image":    {publisher, "nothing:1", control.ReasonImageNotFound},
		"malformed name":   {publisher, "Not A Name", control.ReasonInvalidRequest},
		"unknown registry": {publisher, "quay.example/a/b:1", control.ReasonInvalidRequest},
		"a mirror":         {mirror, "alpine:1", control.ReasonNotPublisher},
		"upstream down":    {down, "alpine:1", control.ReasonUpstreamUnavailable},
		"needs a login":    {login, "alpine:1", control.ReasonUpstreamUnauthorized},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := test.node.control.Resolve(t.Context(), control.ResolveRequest{Image: test.image})
			if refusal, ok := errors.AsType[*control.Error](err); !ok || refusal.Reason != test.want {
				t.Errorf("resolve: %v, want %s", err, test.want)
			}
			_, err = test.node.control.Publish(t.Context(), control.PublishRequest{Image: test.image, Digest: zero})
			if refusal, ok := errors.AsType[*control.Error](err); !ok || refusal.Reason != test.want {
				t.Errorf("publish: %v, want %s", err, test.want)
			}
		})
	}
}

// loginRegistry is a registry that wants a password.
func loginRegistry(t *testing.T) string {
	t.Helper()
	addr := freeAddr(t)
	s := &http.Server{Addr: addr, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	})}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return addr
}

func TestOnlyTheOperatorControlsANode(t *testing.T) {
	publisher := newPublisher(t, freeAddr(t))
	other := newKeys(t)
	client, err := control.NewClient(publisher.ControlAddr, control.Keys{Own: other.key, Peer: other.key.Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Status(t.Context(), 0); err == nil {
		t.Error("a stranger got an answer")
	}
	if _, err := publisher.control.Status(t.Context(), 0); err != nil {
		t.Errorf("the operator: %v", err)
	}
}
