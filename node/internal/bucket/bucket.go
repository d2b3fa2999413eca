// Package bucket keeps blobs in an S3-compatible bucket, in the layout of an
// OCI image: PREFIX/blobs/sha256/HEX. It does not trust the bucket: the reader
// of a blob checks its digest. It imports only node/internal/durable; the store
// and the node's configuration call it.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

const (
	// Blobs of more than partSize go up in parts, of which two are in memory.
	partSize = 16 << 20
	threads  = 2
	// abandonedAge is when the parts of an upload that never ended are removed.
	abandonedAge = 24 * time.Hour
	// minRate is the least rate in bytes per second that a transfer is given
	// time for, and slack what it gets beside that.
	minRate = 1 << 20
	slack   = time.Minute
)

// ErrNotFound is returned for a blob that the bucket does not hold.
var ErrNotFound = errors.New("not in the bucket")

// Bucket is a bucket, or the part of it under a prefix, that no other
// publisher writes to. It is safe for concurrent use. A nil one holds nothing.
type Bucket struct {
	location
	client *minio.Client

	mu    sync.Mutex // guards what follows
	blobs map[digest.Digest]int64
	size  int64 // of the blobs, bytes
}

// Open opens a bucket and lists what it holds. See Config for what it may be.
func Open(ctx context.Context, c Config) (*Bucket, error) {
	b, err := connect(c)
	if err != nil {
		return nil, err
	}
	if err := b.list(ctx); err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", b.location, explain(err))
	}
	return b, nil
}

// explain says what to do about the errors that users meet.
func explain(err error) error {
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchBucket:
		return fmt.Errorf("%w: create it, or correct its name", err)
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return fmt.Errorf("%w: check the credentials, and that they may list, read, write and delete its objects", err)
	}
	return err
}

// list reads the names and sizes of all blobs, a thousand per request, and
// removes what uploads of dead processes have left.
func (b *Bucket) list(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx) // ends the lister's goroutine
	defer cancel()
	for o := range b.client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.key(""), Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(o.Key, b.key("")))
		if d.Validate() == nil {
			b.add(d, o.Size)
		}
	}
	for u := range b.client.ListIncompleteUploads(ctx, b.bucket, b.key(""), true) {
		if u.Err != nil || time.Since(u.Initiated) < abandonedAge {
			continue // some servers cannot list them: a rule of the bucket may expire them
		}
		if err := b.client.RemoveIncompleteUpload(ctx, b.bucket, u.Key); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// key is the object of a blob, given by its hexadecimal digest.
func (b *Bucket) key(hex string) string { return b.prefix + "blobs/sha256/" + hex }

func (b *Bucket) add(d digest.Digest, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size += size - b.blobs[d]
	b.blobs[d] = size
}

// Forget says that the bucket does not hold a blob, whatever it has by its
// name: it is to be uploaded again.
func (b *Bucket) Forget(d digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size -= b.blobs[d]
	delete(b.blobs, d)
}

// Size is the size in bytes of a blob that the bucket holds.
func (b *Bucket) Size(d digest.Digest) (size int64, ok bool) {
	if b == nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	size, ok = b.blobs[d]
	return size, ok
}

// Usage is the number of blobs and their bytes.
func (b *Bucket) Usage() (blobs int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.blobs), b.size
}

// within gives a transfer of n bytes its time.
func within(ctx context.Context, n int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, slack+time.Duration(n/minRate)*time.Second)
}

// Put uploads a blob whose content the caller has verified. The server checks
// the MD5 of each part, and that the blob is there follows from its answer
// alone: a crash before it leaves the blob to be uploaded again.
func (b *Bucket) Put(ctx context.Context, d digest.Digest, content *os.File, size int64) error {
	ctx, cancel := within(ctx, size)
	defer cancel()
	_, err := b.client.PutObject(ctx, b.bucket, b.key(d.Encoded()), io.NewSectionReader(content, 0, size), size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", SendContentMd5: true, PartSize: partSize, NumThreads: threads,
	})
	if err != nil {
		return fmt.Errorf("uploading %s to bucket %s: %w", d, b.location, explain(err))
	}
	b.add(d, size)
	return nil
}

// attempts is how often in a row a download may break without a byte of
// progress, and retryPause how long it rests after the first time.
const (
	attempts   = 5
	retryPause = 500 * time.Millisecond
)

// Get writes a blob to a file. A connection that breaks is taken up again
// where it broke. What arrives is not verified.
func (b *Bucket) Get(ctx context.Context, d digest.Digest, to io.Writer) error {
	size, ok := b.Size(d)
	if !ok {
		return ErrNotFound
	}
	ctx, cancel := within(ctx, size)
	defer cancel()
	var have int64
	// The bound on attempts ends it before the longest pause.
	pause := &backoff.ExponentialBackOff{InitialInterval: retryPause, Multiplier: 2, MaxInterval: time.Minute}
	failed := 0
	for have < size {
		n, err := b.get(ctx, d, have, size, to)
		have += n
		if have == size {
			break
		}
		if answer := minio.ToErrorResponse(err); answer.StatusCode == http.StatusNotFound {
			return ErrNotFound
		} else if answer.StatusCode >= 400 && answer.StatusCode < 500 {
			return fmt.Errorf("downloading %s from bucket %s: %w", d, b.location, explain(err))
		}
		if failed++; n > 0 {
			pause.Reset()
			failed = 0
		}
		if failed == attempts {
			return fmt.Errorf("downloading %s from bucket %s: %w", d, b.location, err)
		}
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return fmt.Errorf("downloading %s from bucket %s: %w", d, b.location, errors.Join(context.Cause(ctx), err))
		}
	}
	return nil
}

// get is one attempt, from an offset to the end.
func (b *Bucket) get(ctx context.Context, d digest.Digest, offset, size int64, to io.Writer) (int64, error) {
	var options minio.GetObjectOptions
	if err := options.SetRange(offset, size-1); err != nil {
		return 0, err
	}
	body, _, _, err := minio.Core{Client: b.client}.GetObject(ctx, b.bucket, b.key(d.Encoded()), options)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.CopyBuffer(to, io.LimitReader(body, size-offset), make([]byte, 256<<10))
	if err == nil && n < size-offset {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Remove deletes a blob; one that is not there is none to delete.
func (b *Bucket) Remove(ctx context.Context, d digest.Digest) error {
	if _, ok := b.Size(d); !ok {
		return nil
	}
	ctx, cancel := within(ctx, 0)
	defer cancel()
	if err := b.client.RemoveObject(ctx, b.bucket, b.key(d.Encoded()), minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("deleting %s from bucket %s: %w", d, b.location, explain(err))
	}
	b.Forget(d)
	return nil
}
