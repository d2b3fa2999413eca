// Package imageverifier is the program that containerd 2.x asks before each
// pull, in the bin_dir of its image verifier plugin: is this image on the
// ledger? The answer does not depend on where the bytes come from. It may
// import client, durable and the ledger; node/cli calls it.
package imageverifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// DefaultConfig is where the settings are: containerd passes none.
	DefaultConfig = "/etc/pyrsia/image-verifier.json"
	// ConfigVar names another file.
	ConfigVar = "PYRSIA_IMAGE_VERIFIER"
	// DefaultBinDir is the bin_dir that containerd has by default.
	DefaultBinDir = "/opt/containerd/image-verifier/bin"

	timeout   = 8 * time.Second // containerd gives a verifier 10
	maxProofs = 16              // of the blocks of one digest, of which ledger.MaxArtifacts are listed
)

// Config are the settings.
type Config struct {
	// Node is the URL of a node's open port. It is asked, and not believed.
	Node string `json:"node"`
	// LedgerKey is the verifier key of the ledger to trust, and the only one: a
	// program without memory cannot tell a legitimate rotation from one by a
	// thief who has an earlier key. After a rotation the settings must be written
	// again.
	LedgerKey string `json:"ledgerKey"`
	// Registries are those whose images must be on the ledger, each under any of
	// its names; images of others are let through.
	Registries []string `json:"registries"`
}

// ReadConfig reads the settings.
func ReadConfig(file string) (*Config, error) {
	data, err := durable.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%w: 'pyrsia image-verifier install' writes it", err)
	}
	c := new(Config)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // a setting that is misspelt is not one that is absent
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func (c *Config) validate() error {
	if _, err := ledger.NewVerifier(c.LedgerKey); err != nil {
		return err
	}
	if u, err := url.Parse(c.Node); err != nil || u.Host == "" || len(c.Registries) == 0 {
		return errors.New("give the URL of a node's open port, and at least one registry")
	}
	for i, name := range c.Registries {
		registry, err := ledger.CanonicalRegistry(name)
		if err != nil {
			return err // it would match no image, and let all of them through
		}
		c.Registries[i] = registry
	}
	return nil
}

// copies serve Docker Hub's images under names of their own.
var copies = []string{"mirror.gcr.io", "public.ecr.aws"}

// outside says that an image is let through, and why.
func (c *Config) outside(registry string) string {
	reason := fmt.Sprintf("images of %s need not be on the ledger", registry)
	if slices.Contains(copies, registry) {
		reason += ": it serves copies of Docker Hub's images under another name, which no block records; make it one of the registries to have them refused"
	}
	return reason
}

// Install writes the settings and puts the program into containerd's bin_dir.
func Install(c *Config, file, binDir, program string) error {
	if err := c.validate(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.MkdirAll(binDir, 0o755)); err != nil {
		return fmt.Errorf("installing the image verifier: %w", err)
	}
	// The settings come first: with the program alone containerd would refuse
	// every image.
	if err := durable.WriteFile(file, append(data, '\n')); err != nil {
		return err
	}
	link := filepath.Join(binDir, ProgramName)
	if old, err := os.Readlink(link); err == nil && old == program {
		return nil
	}
	// A run that was killed may have left one, to a program of another version.
	if err := os.Remove(link + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("installing the image verifier: %w", err)
	}
	if err := os.Symlink(program, link+".new"); err != nil {
		return fmt.Errorf("installing the image verifier: %w", err)
	}
	// Crash before: the settings without the program, which containerd does not
	// see.
	if err := errors.Join(os.Rename(link+".new", link), durable.SyncDir(binDir)); err != nil {
		return fmt.Errorf("installing the image verifier: %w", err)
	}
	return nil
}

// Uninstall takes the program out of the bin_dir, and removes the settings.
func Uninstall(file, binDir string) error {
	for _, name := range []string{filepath.Join(binDir, ProgramName), filepath.Join(binDir, ProgramName+".new"), file} {
		err := os.Remove(name)
		if err == nil {
			// Crash, or power cut, before: the settings are there as long as the
			// program is, without which it would refuse every image.
			err = durable.SyncDir(filepath.Dir(name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the image verifier: %w", err)
		}
	}
	return nil
}

// Verify checks an image by a proof from the node: its digest must be that of
// the artifact or of a platform's manifest in the newest block of its tag, or,
// if it is named by its digest, in any block of its repository, and not be
// withdrawn. It returns what to tell the user if the image may be pulled, and
// else an error. A node that lies can hide that an image was withdrawn, or that
// its tag moved; it cannot have one let through that was never recorded.
func (c *Config) Verify(ctx context.Context, name string, d digest.Digest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name, _, pinned := strings.Cut(name, "@")
	image, err := ledger.ParseImage(name)
	if err != nil {
		return "", err
	}
	if !slices.Contains(c.Registries, image.Registry) {
		return c.outside(image.Registry), nil
	}
	if err := ledger.CheckDigest(d); err != nil {
		return "", err
	}
	blocks, refusal, err := c.candidates(ctx, image, pinned, d)
	if err != nil {
		return "", err
	}
	key, err := ledger.NewVerifier(c.LedgerKey)
	if err != nil {
		return "", err
	}
	for _, height := range blocks {
		proven, err := c.node().Block(ctx, height)
		if err != nil {
			return "", err
		}
		block, err := ledger.VerifyBlock(key, []byte(proven.Entry), []byte(proven.Proof))
		if err != nil {
			return "", fmt.Errorf("block %d: %w", height, err)
		}
		if !records(block.Artifact, image, pinned, d) {
			continue
		}
		if by, of, ok := withdrawnBy(proven, block.Artifact, d); ok {
			refusal = c.withdrawn(ctx, key, block, of, by)
			continue // another tag may vouch for the same digest
		}
		return fmt.Sprintf("%s@%s is block %d of %s", block.Artifact.Artifact, d, block.Height, block.Checkpoint.Origin), nil
	}
	return "", refusal
}

// candidates are the blocks that record the image, as the node says: of a tag
// the newest one alone. If none of them does, the refusal is why.
func (c *Config) candidates(ctx context.Context, image ledger.Image, pinned bool, d digest.Digest) (heights []int64, refusal, err error) {
	query := client.Query{Digest: d.String()}
	refusal = fmt.Errorf("%s@%s is not on the ledger as an image", image.Name(), d)
	if !pinned {
		query = client.Query{Image: image.String(), Limit: 1}
		refusal = fmt.Errorf("the ledger does not record that %s is %s", image, d)
	}
	blocks, err := c.node().Blocks(ctx, query)
	if err != nil {
		return nil, nil, err
	}
	if !pinned {
		blocks = blocks[:min(len(blocks), 1)]
	}
	add := func(b ledger.BlockJSON) {
		if len(heights) < maxProofs {
			heights = append(heights, b.Height)
		}
	}
	var withdrawn []ledger.BlockJSON
	for _, b := range blocks {
		a, err := ledger.ParseEntry([]byte(b.Entry))
		switch {
		case err != nil:
		case !records(a, image, pinned, d):
			if !pinned {
				refusal = fmt.Errorf("the newest block of %s, %d, records %s, and not %s", image, b.Height, a.Digest, d)
			}
		case b.RevokedBy != nil:
			withdrawn = append(withdrawn, b)
		default:
			add(b)
		}
	}
	for _, b := range withdrawn { // they tell why, if no other one vouches
		add(b)
	}
	return heights, refusal, nil
}

// records tells whether an entry is about the image.
func records(a *ledger.AddArtifact, image ledger.Image, pinned bool, d digest.Digest) bool {
	recorded, err := ledger.ParseImage(a.Artifact)
	return err == nil && recorded.Name() == image.Name() && (pinned || recorded.Tag == image.Tag) && a.HasManifest(d)
}

// withdrawnBy finds the block that withdraws a digest of a block, or the whole
// block, as the node says, and the digest that it withdraws.
func withdrawnBy(b ledger.BlockJSON, a *ledger.AddArtifact, d digest.Digest) (by int64, of digest.Digest, ok bool) {
	if b.RevokedBy != nil {
		return *b.RevokedBy, a.Digest, true
	}
	for _, w := range b.Withdrawn {
		if w.Digest == d || w.Digest == a.Digest {
			return w.By, w.Digest, true
		}
	}
	return 0, "", false
}

// withdrawn says why a digest of a block was withdrawn.
func (c *Config) withdrawn(ctx context.Context, key *ledger.Verifier, block *ledger.VerifiedBlock, d digest.Digest, by int64) error {
	name := fmt.Sprintf("%s@%s", block.Artifact.Artifact, d)
	image, err := ledger.ParseImage(block.Artifact.Artifact)
	if err != nil {
		return err
	}
	proven, err := c.node().Block(ctx, by)
	if err != nil {
		return fmt.Errorf("%s was withdrawn by the publisher, and why is not known: %w", name, err)
	}
	_, reason, err := ledger.VerifyWithdrawal(key, []byte(proven.Entry), []byte(proven.Proof), ledger.Target{Image: image, Digest: d, Block: block.Height})
	if err != nil {
		return fmt.Errorf("the node says that %s was withdrawn by the publisher in block %d, and cannot prove it: look at that node, or ask another one", name, by)
	}
	return fmt.Errorf("%s was withdrawn by the publisher in block %d: %s", name, by, reason)
}

func (c *Config) node() *client.Client { return client.New(c.Node, http.DefaultClient) }
