package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// dockerRegistry starts a real registry, or skips.
func dockerRegistry(t *testing.T) *upstream.Registry {
	t.Helper()
	binary := os.Getenv("PYRSIA_DOCKER_REGISTRY")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("docker-registry"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("docker-registry is missing: run this by 'make test'")
			}
			t.Skip("docker-registry is missing: run this by 'make test'")
		}
	}
	r, err := upstream.Start(t.Context(), binary, t.TempDir(), freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	return r
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// started is a running node and how to reach it.
type started struct {
	*Node
	Config
	control *control.Client
}

func start(t *testing.T, c Config) *started {
	t.Helper()
	nodeKeys, operatorKeys := newKeys(t), newKeys(t)
	c.DataDir = t.TempDir()
	if c.P2PListen == nil {
		c.P2PListen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	c.OpenAddr, c.ControlAddr = freeAddr(t), freeAddr(t)
	c.ControlKeyFile, c.OperatorKeyFile = nodeKeys.private, operatorKeys.public
	c.Logger = testLogger(t)
	if c.Role == control.Mirror {
		c.MirrorAddr = freeAddr(t)
	}
	n, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	client, err := control.NewClient(c.ControlAddr, control.Keys{Own: operatorKeys.key, Peer: nodeKeys.key.Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &started{Node: n, Config: c, control: client}
}

// address is where other nodes join by this one.
func (s *started) address() string {
	return s.host.Addrs()[0].String() + "/p2p/" + s.host.ID().String()
}

type keyFiles struct {
	key             ed25519.PrivateKey
	private, public string
}

func newKeys(t *testing.T) keyFiles {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k := keyFiles{key: key, private: filepath.Join(t.TempDir(), "own"), public: filepath.Join(t.TempDir(), "pub")}
	pem1, err1 := control.MarshalPrivateKey(key)
	pem2, err2 := control.MarshalPublicKeys(public)
	if err := errors.Join(err1, err2, os.WriteFile(k.private, pem1, 0o600), os.WriteFile(k.public, pem2, 0o600)); err != nil {
		t.Fatal(err)
	}
	return k
}

// signingFile writes a signing key to a file. vkey is its verifier key.
func signingFile(t *testing.T) (file, skey, vkey string) {
	t.Helper()
	skey, vkey, err := ledger.GenerateKey("ledger.example/test")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "signing.key")
	if err := os.WriteFile(file, []byte(skey), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, skey, vkey
}

func newPublisher(t *testing.T, upstreamAddr string, change ...func(*Config)) *started {
	t.Helper()
	file, _, _ := signingFile(t)
	c := Config{Role: control.Publisher, SigningKeyFile: file, Upstreams: map[string]string{"docker.io": "http://" + upstreamAddr}}
	for _, f := range change {
		f(&c)
	}
	return start(t, c)
}

func newMirror(t *testing.T, publisher *started, join ...string) *started {
	t.Helper()
	return start(t, Config{
		Role: control.Mirror, LedgerKey: publisher.ledger.Key(),
		Bootstrap: append(join, publisher.address()),
	})
}

// push makes an image for two platforms and pushes it.
func push(t *testing.T, addr, image string, layerSize int64) (v1.ImageIndex, digest.Digest) {
	t.Helper()
	index, err := random.Index(layerSize, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(addr+"/library/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return index, digest.Digest(d.String())
}

// publish has an image published, as the operator does.
func (s *started) publish(t *testing.T, image string) *control.Block {
	t.Helper()
	resolved, err := s.control.Resolve(t.Context(), control.ResolveRequest{Image: image})
	if err != nil {
		t.Fatal(err)
	}
	req := control.PublishRequest{Image: image, Digest: resolved.Digest}
	if head, ok := s.ledger.Head(); ok {
		req.Floor = string(head.Signed)
	}
	for range 100 {
		resp, err := s.control.Publish(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Block != nil {
			return resp.Block
		}
	}
	t.Fatalf("%s is not published in time", image)
	return nil
}

// testTimeout is how long a test waits for what should come soon: longer than any
// pause after which a node tries again, which is a minute at most.
const testTimeout = 2 * time.Minute

func (s *started) awaitBlocks(t *testing.T, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for {
		changed := s.ledger.Changed()
		if s.ledger.Size() >= n {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the mirror has %d blocks, want %d", s.ledger.Size(), n)
		}
	}
}

// pull pulls an image from the mirror as a client does, checking everything.
func (s *started) pull(ctx context.Context, image string) (digest.Digest, error) {
	ref, err := name.ParseReference(s.MirrorAddr+"/library/"+image, name.Insecure)
	if err != nil {
		return "", err
	}
	index, err := remote.Index(ref, remote.WithContext(ctx))
	if err != nil {
		return "", err
	}
	if err := validate.Index(index); err != nil {
		return "", err
	}
	d, err := index.Digest()
	return digest.Digest(d.String()), err
}

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
