package pieces

import (
	"hash"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Describer makes the description of a blob whose bytes are written to it: the
// digest of the blob and those of its pieces come from one pass over them.
type Describer struct {
	size   int64
	whole  hash.Hash
	piece  hash.Hash       // of what arrived since the last whole piece; unused in the first one
	pieces []digest.Digest // of the whole pieces
}

// NewDescriber makes a describer of a blob of which nothing has come yet.
func NewDescriber() *Describer {
	return &Describer{whole: digest.SHA256.Hash(), piece: digest.SHA256.Hash()}
}

// Write implements io.Writer; it takes everything.
func (d *Describer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part := rest[:min(int64(len(rest)), Size-d.size%Size)]
		rest = rest[len(part):]
		_, _ = d.whole.Write(part) // a hash never fails
		if d.size >= Size {
			_, _ = d.piece.Write(part)
		}
		if d.size += int64(len(part)); d.size%Size == 0 {
			d.pieces = append(d.pieces, d.last())
			d.piece.Reset()
		}
	}
	return len(p), nil
}

// last is the digest of the last piece, as far as it came. The first piece's is
// that of all that came, which is known anyway.
func (d *Describer) last() digest.Digest {
	if d.size <= Size {
		return d.Digest()
	}
	return digest.NewDigest(digest.SHA256, d.piece)
}

// Digest is that of all that came.
func (d *Describer) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, d.whole) }

// Blob describes all that came.
func (d *Describer) Blob(mediaType string) Blob {
	b := Blob{Digest: d.Digest(), Size: d.size, MediaType: mediaType}
	if d.size <= Size {
		return b
	}
	b.Pieces = slices.Clone(d.pieces)
	if d.size%Size > 0 {
		b.Pieces = append(b.Pieces, d.last())
	}
	return b
}
