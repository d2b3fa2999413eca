package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/control"
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
