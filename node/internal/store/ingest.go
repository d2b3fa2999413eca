package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// ErrWrongDigest is returned when content is not what its digest says.
var ErrWrongDigest = errors.New("content does not have the expected digest")

// Ingest is a blob that is being written. It becomes readable in the store by
// Commit alone.
type Ingest struct {
	*os.File
	store  *Store
	digest digest.Digest
}

// Create begins to write a blob. The caller ends it by Commit or Abort.
func (s *Store) Create(d digest.Digest) (*Ingest, error) {
	f, err := os.CreateTemp(s.ingestDir(), d.Encoded()[:12]+"-*")
	if err != nil {
		return nil, fmt.Errorf("storing %s: %w", d, err)
	}
	return &Ingest{File: f, store: s, digest: d}, nil
}

// Abort drops what was written.
func (i *Ingest) Abort() error {
	return errors.Join(i.Close(), os.Remove(i.Name()))
}

// Commit hashes what was written and puts it into the store if it has the
// right digest. On an error nothing is kept.
func (i *Ingest) Commit() error {
	if err := i.commit(); err != nil {
		return errors.Join(fmt.Errorf("storing %s: %w", i.digest, err), i.Abort())
	}
	return nil
}

func (i *Ingest) commit() error {
	if _, err := i.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	size, err := io.Copy(h, i.File)
	if err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != i.digest {
		return fmt.Errorf("%w: it is %s", ErrWrongDigest, got)
	}
	if err := i.Chmod(0o644); err != nil {
		return err
	}
	name := i.store.file(i.digest)
	// Crash before the rename: a temporary file, which the next start drops.
	// Crash after it: the blob is there, and the next start counts it.
	if err := durable.Rename(i.File, name); err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	i.store.add(&entry{digest: i.digest, size: size, checked: fingerprintOf(info)})
	return nil
}

// Put stores a small blob.
func (s *Store) Put(data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	if s.Has(d) {
		return d, nil
	}
	i, err := s.Create(d)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(i, bytes.NewReader(data)); err != nil {
		return "", errors.Join(fmt.Errorf("storing %s: %w", d, err), i.Abort())
	}
	return d, i.Commit()
}
