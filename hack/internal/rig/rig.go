// Package rig runs a small Pyrsia network on loopback for tests and
// measurements: an upstream registry, a publisher and mirrors, each a real
// process of its own.
package rig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// Rig is the network.
type Rig struct {
	Dir       string // of everything that it writes
	Pyrsia    string // the program
	Registry  *upstream.Registry
	Publisher *Node
	Key       string // the ledger's verifier key

	nodes []*Node
}

// Start starts an upstream registry from the binary docker-registry, which is
// Docker Hub and quay.io, and a publisher, with these further arguments. The program is PYRSIA_BINARY, or
// else built.
func Start(ctx context.Context, dir, dockerRegistry string, publisher ...string) (_ *Rig, err error) {
	r := &Rig{Dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Stop())
		}
	}()
	if r.Pyrsia, err = program(ctx, dir); err != nil {
		return nil, err
	}
	addr, err := loopback.FreeAddr()
	if err != nil {
		return nil, err
	}
	if r.Registry, err = upstream.Start(ctx, dockerRegistry, filepath.Join(dir, "registry"), addr); err != nil {
		return nil, err
	}
	r.Publisher, r.Key, err = r.startPublisher(ctx, r.Pyrsia, "publisher", "signing.key", publisher...)
	return r, err
}

// StartPublisher starts another publisher, with a ledger of its own, from a program
// that may be of another build.
func (r *Rig) StartPublisher(ctx context.Context, name, program string) (*Node, error) {
	n, _, err := r.startPublisher(ctx, program, name, name+".signing.key")
	return n, err
}

func (r *Rig) startPublisher(ctx context.Context, program, name, keyFile string, args ...string) (n *Node, vkey string, err error) {
	skey, vkey, err := ledger.GenerateKey("rig.example/ledger")
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(r.Dir, keyFile)
	if err := os.WriteFile(file, []byte(skey), 0o600); err != nil {
		return nil, "", err
	}
	url := "http://" + r.Registry.Addr
	args = append([]string{"--role", "Publisher", "--signing-key", file, "--upstream", "docker.io=" + url + ",quay.io=" + url}, args...)
	n, err = r.start(ctx, program, name, args...)
	return n, vkey, err
}

func program(ctx context.Context, dir string) (string, error) {
	if p := os.Getenv("PYRSIA_BINARY"); p != "" {
		return p, nil
	}
	p := filepath.Join(dir, "pyrsia")
	build := exec.CommandContext(ctx, "go", "build", "-o", p, "github.com/pyrsia/pyrsia-operator/cmd/pyrsia")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building pyrsia: %w: %s", err, out)
	}
	return p, nil
}

// StartMirror starts a mirror. Each peer is another mirror's address; the
// publisher is known to all.
func (r *Rig) StartMirror(ctx context.Context, name string, args ...string) (*Node, error) {
	addr, err := loopback.FreeAddr()
	if err != nil {
		return nil, err
	}
	args = append([]string{"--role", "Mirror", "--ledger-key", r.Key, "--mirror-addr", addr, "--bootstrap", r.Publisher.Peer}, args...)
	n, err := r.start(ctx, r.Pyrsia, name, args...)
	if err != nil {
		return nil, err
	}
	n.Mirror = addr
	return n, n.AwaitReady(ctx)
}

// StartNode starts a further node, which trusts what the arguments say.
func (r *Rig) StartNode(ctx context.Context, name string, args ...string) (*Node, error) {
	return r.start(ctx, r.Pyrsia, name, args...)
}

func (r *Rig) start(ctx context.Context, program, name string, args ...string) (*Node, error) {
	n, err := newNode(r, program, name, args)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	r.nodes = append(r.nodes, n)
	if err := n.Start(ctx); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return n, nil
}

// Stop ends everything. The files stay.
func (r *Rig) Stop() error {
	var errs []error
	for _, n := range r.nodes {
		errs = append(errs, n.Stop())
	}
	if r.Registry != nil {
		errs = append(errs, r.Registry.Stop())
	}
	return errors.Join(errs...)
}

// Push pushes an image or an index to the upstream as library/NAME.
func (r *Rig) Push(ctx context.Context, image string, content remote.Taggable) error {
	ref, err := name.NewTag(r.Registry.Addr+"/library/"+image, name.Insecure)
	if err != nil {
		return err
	}
	switch c := content.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, c, remote.WithContext(ctx))
	case v1.Image:
		err = remote.Write(ref, c, remote.WithContext(ctx))
	}
	if err != nil {
		return fmt.Errorf("pushing %s: %w", ref, err)
	}
	return nil
}

// Publish has the publisher publish library/IMAGE, or an image of quay.io by its
// whole name, and returns its digest and its block.
func (r *Rig) Publish(ctx context.Context, image string) (digest.Digest, int64, error) {
	return r.PublishBy(ctx, r.Publisher, image)
}

// PublishBy is Publish by any publisher.
func (r *Rig) PublishBy(ctx context.Context, n *Node, image string) (digest.Digest, int64, error) {
	resolved, err := n.Control.Resolve(ctx, control.ResolveRequest{Image: image})
	if err != nil {
		return "", 0, fmt.Errorf("publishing %s: %w", image, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		resp, err := n.Control.Publish(ctx, control.PublishRequest{Image: image, Digest: resolved.Digest})
		if err != nil {
			return "", 0, fmt.Errorf("publishing %s: %w", image, err)
		}
		if resp.Block != nil {
			return digest.Digest(resolved.Digest), resp.Block.Height, nil
		}
	}
}

// Revoke withdraws the artifact of a block and returns the block that says so.
// The publisher is down meanwhile.
func (r *Rig) Revoke(ctx context.Context, height int64, reason string) (int64, error) {
	if err := r.Publisher.Stop(); err != nil {
		return 0, err
	}
	skey, err := os.ReadFile(filepath.Join(r.Dir, "signing.key"))
	if err != nil {
		return 0, err
	}
	w, err := replica.OpenWriter(ctx, filepath.Join(r.Publisher.Data, "ledger"), string(skey), slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	by, err := w.Revoke(ctx, height, reason, time.Now())
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, err
	}
	return by, r.Publisher.Start(ctx)
}
