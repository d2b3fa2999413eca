package upstream

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

const (
	blobConcurrency = 4
	blobAttempts    = 3

	// maxDescribed bounds the blobs whose pieces are remembered, and
	// maxDescribedPieces those of each: 22 kB at most, for 1 GiB.
	maxDescribed       = 1024
	maxDescribedPieces = 256
)

// fetch brings what the store lacks, and finds the pieces of every blob.
func (c *copier) fetch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blobConcurrency)
	for _, d := range c.order {
		group.Go(func() error {
			if err := c.bring(ctx, c.blobs[d]); err != nil {
				return err
			}
			return c.store.Settle(ctx, d)
		})
	}
	return group.Wait()
}

// bring fetches a blob into the store and describes its pieces. Images share
// blobs, and those with many tags share all of them: each is fetched once, and
// concurrent callers wait for that.
func (c *copier) bring(ctx context.Context, b *pieces.Blob) error {
	end, err := c.registry.copying.Take(ctx, b.Digest.String())
	if err != nil {
		return err
	}
	defer end()
	described, err := c.stored(ctx, b)
	if errors.Is(err, store.ErrNotFound) {
		described, err = c.download(ctx, b)
	}
	if err != nil {
		return err
	}
	if described.Size != b.Size {
		return invalid("%s: blob %s has %d bytes, the manifest says %d", c.image, b.Digest, described.Size, b.Size)
	}
	if n := len(described.Pieces); n > 0 && n <= maxDescribedPieces {
		c.registry.described.Add(b.Digest, described.Pieces)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	*b = described
	return nil
}

// stored describes a blob that the store holds. What its pieces are is known if this
// process has hashed it before: to say so again of the same digest needs no look at
// its bytes, which the store has verified.
func (c *copier) stored(ctx context.Context, b *pieces.Blob) (pieces.Blob, error) {
	size, ok := c.store.Size(b.Digest)
	if !ok {
		return pieces.Blob{}, store.ErrNotFound
	}
	described := pieces.Blob{Digest: b.Digest, Size: size, MediaType: b.MediaType}
	if known, ok := c.registry.described.Get(b.Digest); ok || described.Count() == 1 {
		f, err := c.store.Open(ctx, b.Digest)
		if err != nil {
			return pieces.Blob{}, err
		}
		described.Pieces = known
		c.progress.Done.Add(size)
		return described, f.Close()
	}
	describer := pieces.NewDescriber()
	if err := c.store.Hash(ctx, b.Digest, describer); err != nil {
		return pieces.Blob{}, err
	}
	c.progress.Done.Add(size)
	return describer.Blob(b.MediaType), nil
}

// download fetches a blob, and describes it by the bytes that pass. A connection
// that breaks is taken up again where it broke, a few times.
func (c *copier) download(ctx context.Context, b *pieces.Blob) (pieces.Blob, error) {
	describer := pieces.NewDescriber()
	ingest, err := c.store.CreateWith(b.Digest, b.Size, describer)
	if err != nil {
		return pieces.Blob{}, c.noSpace(err)
	}
	if err := c.receive(ctx, b, ingest); err != nil {
		return pieces.Blob{}, errors.Join(c.noSpace(err), ingest.Abort())
	}
	err = ingest.Commit()
	if errors.Is(err, store.ErrWrongDigest) {
		return pieces.Blob{}, invalid("%s: %w", c.image, err)
	}
	return describer.Blob(b.MediaType), err
}

// receive writes a blob as it comes.
func (c *copier) receive(ctx context.Context, b *pieces.Blob, ingest *store.Ingest) error {
	var have int64
	to := writerFunc(func(p []byte) (int, error) {
		n, err := ingest.Write(p)
		have += int64(n)
		c.progress.Done.Add(int64(n))
		return n, err
	})
	pause := newBackOff()
	for attempt := 1; ; attempt++ {
		before := have
		err := c.registry.Blob(ctx, c.image, b.Digest, have, b.Size, to)
		if err == nil || errors.Is(err, store.ErrFull) {
			return err
		}
		u, ok := errors.AsType[*Error](err)
		if !ok || u.Kind != Unavailable || attempt >= blobAttempts && have == before || attempt == 10*blobAttempts {
			return err
		}
		if err := sleep(ctx, pause.NextBackOff()); err != nil {
			return err
		}
	}
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
