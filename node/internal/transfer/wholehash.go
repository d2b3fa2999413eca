package transfer

import (
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// wholeHash hashes a blob's pieces in their order. One that comes in order is
// hashed from memory; the others are read again when it is their turn.
type wholeHash struct {
	next atomic.Int64 // the first piece that is not hashed
	mu   sync.Mutex   // guards h; held while h advances
	h    hash.Hash
}

// came stores piece i, and hashes it if it is its turn, or as soon as the
// previous one is hashed.
func (w *wholeHash) came(i int, data []byte, store func() error) error {
	if next := int(w.next.Load()); i != next && i != next+1 {
		return store()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := store(); err != nil {
		return err
	}
	if int(w.next.Load()) == i {
		_, _ = w.h.Write(data) // a hash never fails
		w.next.Add(1)
	}
	return nil
}

// catchUp hashes piece i, all before which are hashed, unless it is.
func (w *wholeHash) catchUp(i int, piece io.Reader, buf []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(w.next.Load()) != i {
		return nil
	}
	w.next.Add(1)
	_, err := io.CopyBuffer(struct{ io.Writer }{w.h}, piece, buf)
	return err
}

func (w *wholeHash) digest() digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return digest.NewDigest(digest.SHA256, w.h)
}
