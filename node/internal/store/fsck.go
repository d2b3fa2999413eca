package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// Damage is a blob on disk that does not have its digest.
type Damage struct {
	Path     string // relative to the store
	Cause    string
	Repaired bool // moved away, so that it is fetched again
}

// Fsck hashes all blobs of the store at root, which no process uses. With
// repair, damaged ones are quarantined. progress is called with how many were
// hashed.
func Fsck(ctx context.Context, root string, repair bool, progress func(blobs int)) (damage []Damage, blobs int, err error) {
	s := &Store{root: root}
	files, err := os.ReadDir(s.blobDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("checking the store: %w", err)
	}
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return damage, i, err
		}
		if cause := s.fsckOne(f.Name()); cause != nil {
			d := Damage{Path: filepath.Join("blobs", "sha256", f.Name()), Cause: cause.Error()}
			if repair {
				if err := os.MkdirAll(s.quarantineDir(), 0o755); err != nil {
					return damage, i, fmt.Errorf("repairing the store: %w", err)
				}
				// Crash before: the blob stays, and is found again.
				if err := os.Rename(filepath.Join(s.blobDir(), f.Name()), filepath.Join(s.quarantineDir(), f.Name())); err != nil {
					return damage, i, fmt.Errorf("repairing the store: %w", err)
				}
				d.Repaired = true
			}
			damage = append(damage, d)
		}
		progress(i + 1)
	}
	if repair && len(damage) > 0 {
		if err := errors.Join(durable.SyncDir(s.quarantineDir()), durable.SyncDir(s.blobDir())); err != nil {
			return damage, len(files), fmt.Errorf("repairing the store: %w", err)
		}
	}
	return damage, len(files), nil
}

func (s *Store) fsckOne(name string) error {
	want := digest.NewDigestFromEncoded(digest.SHA256, name)
	if want.Validate() != nil {
		return errors.New("its name is no SHA-256 digest")
	}
	f, err := os.Open(filepath.Join(s.blobDir(), name))
	if err != nil {
		return err
	}
	defer f.Close()
	h := newHasher()
	if err := hashAll(h, f); err != nil {
		return err
	}
	if got := h.Digest(); got != want {
		return fmt.Errorf("its content has the digest %s", got.Encoded())
	}
	return nil
}
