package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	maxManifests    = 256 // in one index
	maxBlobs        = 8192
	blobConcurrency = 4
)

// Progress counts the bytes of a copy. Its fields are safe to read at any time.
type Progress struct{ Done, Total atomic.Int64 }

// Copy copies an image with all its platforms into the store, and describes
// it as an entry for the ledger, whose Time the caller sets.
func (r *Registry) Copy(ctx context.Context, image ledger.Image, d digest.Digest, s *store.Store, p *Progress) (*ledger.AddArtifact, error) {
	c := &copier{registry: r, image: image, store: s, progress: p, blobs: map[digest.Digest]*pieces.Blob{}}
	top, err := c.manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	entry := &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1,
		Artifact: image.String(), Digest: d, MediaType: top.MediaType, Size: int64(len(top.Data)),
		Upstream: r.host,
	}
	if entry.Platforms, err = c.platforms(ctx, top); err != nil {
		return nil, err
	}
	if err := c.fetch(ctx); err != nil {
		return nil, err
	}
	entry.Pieces, err = c.list()
	return entry, err
}

// copier holds the state of one copy.
type copier struct {
	registry *Registry
	image    ledger.Image
	store    *store.Store
	progress *Progress

	order []digest.Digest                // as they were found, the top manifest first
	blobs map[digest.Digest]*pieces.Blob // Pieces are filled in by fetch
	mu    sync.Mutex                     // guards the blobs' content during fetch
}

// manifest fetches and stores one manifest.
func (c *copier) manifest(ctx context.Context, d digest.Digest) (*Manifest, error) {
	m, err := c.registry.Manifest(ctx, c.image, d)
	if err != nil {
		return nil, err
	}
	if _, err := c.store.Put(m.Data); err != nil {
		return nil, err
	}
	return m, c.want(d, int64(len(m.Data)), m.MediaType)
}

// want notes a blob of the image; a second mention must say the same.
func (c *copier) want(d digest.Digest, size int64, mediaType string) error {
	if err := ledger.CheckDigest(d); err != nil {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%s: %w", c.image, err)}
	}
	if old, ok := c.blobs[d]; ok {
		if old.Size != size {
			return &Error{Kind: Invalid, Err: fmt.Errorf("%s: blob %s is said to have %d and %d bytes", c.image, d, old.Size, size)}
		}
		return nil
	}
	if len(c.order) == maxBlobs || size < 0 {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%s: more than %d blobs, or one of %d bytes", c.image, maxBlobs, size)}
	}
	c.order = append(c.order, d)
	c.blobs[d] = &pieces.Blob{Digest: d, Size: size, MediaType: mediaType}
	c.progress.Total.Add(size)
	return nil
}

func (c *copier) platforms(ctx context.Context, top *Manifest) ([]ledger.Platform, error) {
	if !types.MediaType(top.MediaType).IsIndex() {
		p, err := c.platform(ctx, top, nil)
		if err != nil {
			return nil, err
		}
		return []ledger.Platform{p}, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(top.Data))
	if err != nil {
		return nil, c.invalid(top, err)
	}
	if len(index.Manifests) == 0 || len(index.Manifests) > maxManifests {
		return nil, c.invalid(top, fmt.Errorf("%d manifests: between 1 and %d", len(index.Manifests), maxManifests))
	}
	var out []ledger.Platform
	for _, desc := range index.Manifests {
		m, err := c.manifest(ctx, digest.Digest(desc.Digest.String()))
		if err != nil {
			return nil, err
		}
		p, err := c.platform(ctx, m, desc.Platform)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// platform reads an image manifest and notes its config and layers.
func (c *copier) platform(ctx context.Context, m *Manifest, platform *v1.Platform) (ledger.Platform, error) {
	if !types.MediaType(m.MediaType).IsImage() {
		return ledger.Platform{}, c.invalid(m, fmt.Errorf("media type %.100q is not an image's", m.MediaType))
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(m.Data))
	if err != nil {
		return ledger.Platform{}, c.invalid(m, err)
	}
	p := ledger.Platform{Digest: m.Digest, Config: digest.Digest(manifest.Config.Digest.String())}
	for _, b := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		if !b.MediaType.IsDistributable() {
			continue // by the registries' rules it stays at its own URL
		}
		if err := c.want(digest.Digest(b.Digest.String()), b.Size, string(b.MediaType)); err != nil {
			return ledger.Platform{}, err
		}
		p.Size += b.Size
	}
	if platform == nil {
		if platform, err = c.configPlatform(ctx, m, manifest.Config); err != nil {
			return ledger.Platform{}, err
		}
	}
	p.Platform = Platform(platform)
	return p, nil
}

// configPlatform reads the platform of an image without an index.
func (c *copier) configPlatform(ctx context.Context, m *Manifest, config v1.Descriptor) (*v1.Platform, error) {
	if config.Size > maxManifest {
		return nil, c.invalid(m, fmt.Errorf("config of %d bytes: at most %d", config.Size, maxManifest))
	}
	var b bytes.Buffer
	d := digest.Digest(config.Digest.String())
	if err := c.registry.Blob(ctx, c.image, d, config.Size, &b); err != nil {
		return nil, err
	}
	if digest.FromBytes(b.Bytes()) != d {
		return nil, c.invalid(m, errors.New("the registry sent another config"))
	}
	p := new(v1.Platform)
	if err := json.Unmarshal(b.Bytes(), p); err != nil {
		return nil, c.invalid(m, err)
	}
	return p, nil
}

func (c *copier) invalid(m *Manifest, err error) error {
	return &Error{Kind: Invalid, Err: fmt.Errorf("manifest %s of %s: %w", m.Digest, c.image, err)}
}

// fetch brings what the store lacks, and finds the pieces of every blob.
func (c *copier) fetch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blobConcurrency)
	for _, d := range c.order {
		group.Go(func() error { return c.blob(ctx, c.blobs[d]) })
	}
	return group.Wait()
}

func (c *copier) blob(ctx context.Context, b *pieces.Blob) error {
	f, err := c.store.Open(ctx, b.Digest)
	if errors.Is(err, store.ErrNotFound) {
		if err := c.download(ctx, b); err != nil {
			return err
		}
		f, err = c.store.Open(ctx, b.Digest)
	} else {
		c.progress.Done.Add(b.Size)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	described, err := pieces.Describe(f, b.MediaType)
	if err != nil {
		return err
	}
	if described.Digest != b.Digest || described.Size != b.Size {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%s: blob %s has %d bytes, the manifest says %d", c.image, b.Digest, described.Size, b.Size)}
	}
	c.mu.Lock()
	*b = described
	c.mu.Unlock()
	return nil
}

func (c *copier) download(ctx context.Context, b *pieces.Blob) error {
	ingest, err := c.store.Create(b.Digest, b.Size)
	if err != nil {
		return err
	}
	if err := c.registry.Blob(ctx, c.image, b.Digest, b.Size, io.MultiWriter(ingest, counter{c.progress})); err != nil {
		return errors.Join(err, ingest.Abort())
	}
	err = ingest.Commit()
	if errors.Is(err, store.ErrWrongDigest) {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%s: %w", c.image, err)}
	}
	return err
}

type counter struct{ p *Progress }

func (c counter) Write(b []byte) (int, error) {
	c.p.Done.Add(int64(len(b)))
	return len(b), nil
}

// list stores the piece list.
func (c *copier) list() (digest.Digest, error) {
	l := &pieces.List{Version: 1, PieceSize: pieces.Size}
	for _, d := range c.order {
		l.Blobs = append(l.Blobs, *c.blobs[d])
	}
	data, err := l.Marshal()
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.image, err)
	}
	return c.store.Put(data)
}
