package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/bucket"
)

const (
	maxUploads = 4
	// backupPause is the rest between two looks at what is not in the bucket
	// yet, doubled up to the bound while the bucket takes nothing.
	backupPause    = time.Minute
	maxBackupPause = 15 * time.Minute
)

// waiting tells whether a blob is on this disk alone and must go to the bucket.
func (s *Store) waiting(d digest.Digest) bool {
	if s.config.Bucket == nil {
		return false
	}
	_, kept := s.config.Bucket.Size(d)
	return !kept
}

// Settle returns when a blob that is on disk is kept for good: with a bucket,
// when it is there. Crash before: the blob is on disk and not in the bucket's
// list, and Backup uploads it. Crash after: the next start lists it.
func (s *Store) Settle(ctx context.Context, d digest.Digest) error {
	if !s.waiting(d) {
		return nil
	}
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	case <-ctx.Done():
		return fmt.Errorf("blob %s: %w", d, context.Cause(ctx))
	}
	if !s.waiting(d) { // somebody else did it
		return nil
	}
	f, err := s.openLocal(ctx, d)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = s.config.Bucket.Put(ctx, d, f.File, info.Size())
	}
	return errors.Join(err, f.Close())
}

// Unsettled are the blobs on disk that are not in the bucket yet.
func (s *Store) Unsettled() []digest.Digest {
	var out []digest.Digest
	if s.config.Bucket == nil {
		return nil
	}
	for _, d := range s.all() {
		if s.waiting(d) {
			out = append(out, d)
		}
	}
	return out
}

// Backup uploads what is on disk and not in the bucket, until ctx ends: what a
// dead process or a bucket that was away has left, what was healed, and all
// content of a node that has been given a bucket.
func (s *Store) Backup(ctx context.Context) {
	retry := &backoff.ExponentialBackOff{InitialInterval: 2 * backupPause, Multiplier: 2, MaxInterval: maxBackupPause}
	for {
		pause := backupPause
		var failure error
		for _, d := range s.Unsettled() {
			err := s.Settle(ctx, d)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, ErrNotFound) { // evicted, or found corrupt
				failure = err
				break
			}
		}
		if failure == nil {
			retry.Reset()
		} else {
			s.config.Log.Error("content is on this disk alone: it is uploaded again later", "error", failure)
			pause = retry.NextBackOff()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// fetch brings a blob back from the bucket, once for all that wait.
func (s *Store) fetch(ctx context.Context, d digest.Digest) error {
	fetched := s.fetching.DoChan(d.String(), func() (any, error) { return nil, s.fetchNow(d) })
	select {
	case r := <-fetched:
		return r.Err
	case <-ctx.Done():
		return fmt.Errorf("it is still on its way from the bucket: ask again soon (%w)", context.Cause(ctx))
	}
}

// fetchNow downloads and verifies. What the bucket has lost or changed is as
// what is corrupt on disk: it comes back from peers, and goes up again.
func (s *Store) fetchNow(d digest.Digest) error {
	size, kept := s.config.Bucket.Size(d)
	if !kept {
		return ErrNotFound
	}
	if s.onDisk(d) {
		return nil // another one has just brought it
	}
	i, err := s.create(d, size, newHasher())
	if err != nil {
		return err
	}
	// All of it comes: a full disk is known before the first byte does.
	if err = i.take(size); err == nil {
		err = s.config.Bucket.Get(context.Background(), d, i) // its time is bounded by its size
	}
	if err == nil {
		err = i.Commit()
	} else {
		err = errors.Join(err, i.Abort())
	}
	if !errors.Is(err, bucket.ErrNotFound) && !errors.Is(err, ErrWrongDigest) {
		return err
	}
	s.config.Bucket.Forget(d)
	s.corrupt.Add(1)
	s.config.Log.Error("a blob in the bucket is lost or corrupt: it is fetched again from peers", "digest", d, "error", err)
	if s.config.Corrupt != nil {
		s.config.Corrupt(d)
	}
	return fmt.Errorf("%w: the bucket has lost or changed it", ErrNotFound)
}

func (s *Store) onDisk(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[d]
	return ok
}
