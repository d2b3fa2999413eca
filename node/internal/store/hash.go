package store

import (
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Hasher finds the digest of the bytes that are written to it, and perhaps more
// about them. Its Write takes everything.
type Hasher interface {
	io.Writer
	Digest() digest.Digest
}

// blobHasher finds the digest and nothing else.
type blobHasher struct{ digest.Digester }

func newHasher() Hasher { return blobHasher{digest.SHA256.Digester()} }

func (h blobHasher) Write(p []byte) (int, error) { return h.Hash().Write(p) }

// hashedBefore is for bytes in memory whose digest was found there.
type hashedBefore digest.Digest

func (h hashedBefore) Write(p []byte) (int, error) { return len(p), nil }
func (h hashedBefore) Digest() digest.Digest       { return digest.Digest(h) }

// buffers are what blobs are read through: each is read at least once, and most are small.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// hashAll gives all that a reader has to a hasher. It takes no way around its
// buffer, for a file's own would make another one.
func hashAll(h Hasher, r io.Reader) error {
	b := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(b)
	_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, b[:])
	return err
}
