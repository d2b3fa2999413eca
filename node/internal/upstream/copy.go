package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
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
	maxImage        = 1 << 38 // bytes of one image with all platforms: 256 GiB
	blobConcurrency = 4
	blobAttempts    = 3

	// annotationSubject on an index's manifest names the manifest that it is
	// an attestation of, and annotationType is there on nothing else
	// (docs.docker.com/build/metadata/attestations).
	annotationSubject = "vnd.docker.reference.digest"
	annotationType    = "vnd.docker.reference.type"
)

// Selection says which manifests of an index are copied.
type Selection struct {
	// Platforms are those that are wanted; all, if there are none. "linux/arm" is
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
	m, err := c.stored(ctx, d)
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

func (c *copier) stored(ctx context.Context, d digest.Digest) (*Manifest, error) {
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
		return nil, c.invalid(top, fmt.Errorf("an index of %d manifests: between 1 and %d", len(index.Manifests), maxManifests))
	}
	selected := c.selectPlatforms(index.Manifests)
	if len(selected) == 0 {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%s has none of the platforms %s", c.image, strings.Join(c.which.Platforms, ", "))}
	}
	var out []ledger.Platform
	for _, desc := range selected {
		m, err := c.manifest(ctx, digest.Digest(desc.Digest.String()))
		if err != nil {
			return nil, err
		}
		p, err := c.platform(ctx, m, desc.Platform)
		if err != nil {
			return nil, err
		}
		if desc.Annotations[annotationType] != "" { // whatever it says of a platform, it is not to be run
			p.Platform = ledger.UnknownPlatform
		}
		out = append(out, p)
	}
	return out, nil
}

// selectPlatforms are the manifests that are copied.
func (c *copier) selectPlatforms(all []v1.Descriptor) (out []v1.Descriptor) {
	if len(c.which.Platforms) == 0 {
		return all
	}
	taken := map[string]bool{}
	for _, d := range all {
		recorded := c.which.Recorded != nil && c.which.Recorded.HasManifest(digest.Digest(d.Digest.String()))
		if recorded || MatchPlatform(c.which.Platforms, Platform(d.Platform)) {
			taken[d.Digest.String()] = true
		}
	}
	for _, d := range all {
		if taken[d.Digest.String()] || taken[d.Annotations[annotationSubject]] {
			out = append(out, d)
		}
	}
	return out
}

// MissingPlatforms are the wanted platforms (all, if there are none) that an
// image's index has and its entry has not.
func MissingPlatforms(ctx context.Context, s *store.Store, entry *ledger.AddArtifact, wanted []string) ([]string, error) {
	if !types.MediaType(entry.MediaType).IsIndex() {
		return nil, nil
	}
	data, err := s.ReadAll(ctx, entry.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the index %s of %s: %w", entry.Digest, entry.Artifact, err)
	}
	var missing []string
	for _, d := range index.Manifests {
		platform := Platform(d.Platform)
		if (len(wanted) == 0 || MatchPlatform(wanted, platform)) && !entry.Names(digest.Digest(d.Digest.String())) {
			missing = append(missing, platform)
		}
	}
	return missing, nil
}

// MatchPlatform tells whether a platform is one of the wanted ones.
func MatchPlatform(wanted []string, platform string) bool {
	for _, w := range wanted {
		if platform == w || strings.HasPrefix(platform, w+"/") {
			return true
		}
	}
	return false
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
		if isManifest(string(b.MediaType)) {
			return ledger.Platform{}, c.invalid(m, fmt.Errorf("it has %s as a layer or config, and calls it %.100q: mirrors would serve it as a manifest", b.Digest, b.MediaType))
		}
		if !b.MediaType.IsDistributable() {
			continue // by the registries' rules it stays at its own URL
		}
		if err := c.want(digest.Digest(b.Digest.String()), b.Size, string(b.MediaType)); err != nil {
			return ledger.Platform{}, err
		}
		p.Size += b.Size
	}
	if platform == nil && manifest.Config.MediaType.IsConfig() {
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
	blob := c.blobs[digest.Digest(config.Digest.String())]
	if !c.store.Has(blob.Digest) {
		if err := c.download(ctx, blob); err != nil {
			return nil, err
		}
	}
	data, err := c.store.ReadAll(ctx, blob.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	p := new(v1.Platform)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, c.invalid(m, err)
	}
	return p, nil
}

func (c *copier) invalid(m *Manifest, err error) error {
	return invalid("manifest %s of %s: %w", m.Digest, c.image, err)
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
		return invalid("%s: blob %s has %d bytes, the manifest says %d", c.image, b.Digest, described.Size, b.Size)
	}
	c.mu.Lock()
	*b = described
	c.mu.Unlock()
	return c.store.Settle(ctx, b.Digest)
}

// download fetches a blob. A connection that breaks is taken up again where it
// broke, a few times.
func (c *copier) download(ctx context.Context, b *pieces.Blob) error {
	ingest, err := c.store.Create(b.Digest, b.Size)
	if err != nil {
		return c.noSpace(err)
	}
	var have int64
	to := writerFunc(func(p []byte) (int, error) {
		n, err := ingest.Write(p)
		have += int64(n)
		c.progress.Done.Add(int64(n))
		return n, err
	})
	for attempt := 1; ; attempt++ {
		before := have
		err := c.registry.Blob(ctx, c.image, b.Digest, have, b.Size, to)
		if err == nil {
			break
		}
		if errors.Is(err, store.ErrFull) {
			return errors.Join(c.noSpace(err), ingest.Abort())
		}
		u, ok := errors.AsType[*Error](err)
		if !ok || u.Kind != Unavailable || attempt >= blobAttempts && have == before || attempt == 10*blobAttempts {
			return errors.Join(err, ingest.Abort())
		}
		backoff := firstBackoff << min(attempt-1, 5)
		if err := sleep(ctx, backoff/2+rand.N(backoff)); err != nil {
			return errors.Join(err, ingest.Abort())
		}
	}
	err = ingest.Commit()
	if errors.Is(err, store.ErrWrongDigest) {
		return invalid("%s: %w", c.image, err)
	}
	return err
}

// noSpace says what to do about a full disk, if it is one.
func (c *copier) noSpace(err error) error {
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	return &Error{Kind: NoSpace, Err: fmt.Errorf("%s: %w: give the publisher a larger volume", c.image, err)}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

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
