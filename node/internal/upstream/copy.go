package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	maxManifests = 256 // in one index
	maxBlobs     = 8192
	maxImage     = 1 << 38 // bytes of one image with all platforms: 256 GiB
)

// Selection says which manifests of an index are copied.
type Selection struct {
	// Platforms are those to copy; all, if there are none. "linux/arm" is
	// linux/arm/v7 too. Each comes with its attestations.
	Platforms []string
	// Recorded is the block that the image has, or nil: what it has is copied too.
	Recorded *ledger.AddArtifact
}

// Progress counts the bytes of a copy. Its fields are safe to read at any time.
type Progress struct{ Done, Total atomic.Int64 }

// Copy copies an image into the store, with what hangs on it (attestations,
// signatures, other referrers), and describes it as an entry for the ledger,
// whose Time the caller sets.
func (r *Registry) Copy(ctx context.Context, image ledger.Image, d digest.Digest, which Selection, s *store.Store, p *Progress) (*ledger.AddArtifact, error) {
	c := &copier{registry: r, image: image, store: s, which: which, progress: p, blobs: map[digest.Digest]*pieces.Blob{}}
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
	if err := c.referrers(ctx, d); err != nil {
		return nil, err
	}
	if err := c.fetch(ctx); err != nil {
		return nil, err
	}
	entry.Pieces, err = c.list(ctx)
	return entry, err
}

// copier holds the state of one copy.
type copier struct {
	registry *Registry
	image    ledger.Image
	store    *store.Store
	which    Selection
	progress *Progress

	order []digest.Digest                // as they were found, the top manifest first
	blobs map[digest.Digest]*pieces.Blob // Pieces are filled in by fetch
	total int64
	mu    sync.Mutex // guards the blobs' content during fetch
}

// manifest brings one manifest to the store. One that is there already, from
// an earlier attempt or another tag, is not fetched: upstreams count it.
func (c *copier) manifest(ctx context.Context, d digest.Digest) (*Manifest, error) {
	if err := ledger.CheckDigest(d); err != nil {
		return nil, invalid("%s: %w", c.image, err)
	}
	end, err := c.registry.copying.Take(ctx, d.String())
	if err != nil {
		return nil, err
	}
	defer end()
	m, err := c.storedManifest(ctx, d)
	if err != nil {
		return nil, err
	}
	if m == nil {
		if m, err = c.registry.Manifest(ctx, c.image, d); err != nil {
			return nil, err
		}
		if _, err := c.store.Put(m.Data); err != nil {
			return nil, err
		}
	}
	return m, c.want(d, int64(len(m.Data)), m.MediaType)
}

func (c *copier) storedManifest(ctx context.Context, d digest.Digest) (*Manifest, error) {
	data, err := c.store.ReadAll(ctx, d, maxManifest)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseManifest(d, data, "")
}

// want notes a blob of the image; a second mention must say the same.
func (c *copier) want(d digest.Digest, size int64, mediaType string) error {
	if err := ledger.CheckDigest(d); err != nil {
		return invalid("%s: %w", c.image, err)
	}
	if old, ok := c.blobs[d]; ok {
		if old.Size != size {
			return invalid("%s: blob %s is said to have %d and %d bytes", c.image, d, old.Size, size)
		}
		if isManifest(old.MediaType) != isManifest(mediaType) {
			return invalid("%s: %s is said to be %.100q, and %.100q too", c.image, d, old.MediaType, mediaType)
		}
		return nil
	}
	if len(c.order) == maxBlobs {
		return invalid("%s: more than %d blobs", c.image, maxBlobs)
	}
	if size < 0 || size > maxImage-c.total {
		return invalid("%s: blob %s is said to have %d bytes: an image may have %d in all", c.image, d, size, int64(maxImage))
	}
	c.total += size
	c.order = append(c.order, d)
	c.blobs[d] = &pieces.Blob{Digest: d, Size: size, MediaType: mediaType}
	c.progress.Total.Add(size)
	return nil
}

func (c *copier) invalid(m *Manifest, err error) error {
	return invalid("manifest %s of %s: %w", m.Digest, c.image, err)
}

// list stores the piece list.
func (c *copier) list(ctx context.Context) (digest.Digest, error) {
	l := &pieces.List{Version: 1, PieceSize: pieces.Size}
	for _, d := range c.order {
		l.Blobs = append(l.Blobs, *c.blobs[d])
	}
	data, err := l.Marshal()
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.image, err)
	}
	d, err := c.store.Put(data)
	if err != nil {
		return "", err
	}
	return d, c.store.Settle(ctx, d)
}
