package store

import (
	"hash"
	"io"
	"sync"
)

// buffers are what blobs are read through: each is read at least once, and most are small.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// hashAll gives all that a reader has to a hash, and counts its bytes. It takes no
// way around its buffer, for a file's own would make another one.
func hashAll(h hash.Hash, r io.Reader) (int64, error) {
	b := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(b)
	return io.CopyBuffer(h, struct{ io.Reader }{r}, b[:])
}
