// Package pieces describes the blobs of an artifact so that many untrusted
// peers can deliver them: each blob with the SHA-256 of each of its pieces. The
// list is itself content-addressed, and its digest is on the ledger. It may
// import the ledger's types; publish and upstream make lists, transfer and
// mirror read them.
package pieces

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// Size is the length of each piece of a blob but the last, in bytes.
	Size = 4 << 20
	// MaxList bounds the encoded list: 64 bytes of hash per 4 MiB of content
	// make it enough for about 800 GB.
	MaxList = 16 << 20
	// MediaType is the list's own media type.
	MediaType = "application/vnd.pyrsia.pieces.v1+json"

	// Prefix is how every encoded list begins.
	Prefix = `{"version":1,"pieceSize":4194304,"blobs":[`

	maxBlobSize = 1 << 40

	// minValue is less than the bytes of a value in a list, on average: most are
	// digests.
	minValue = 16
)

// List is the piece list of one artifact. Its encoding is JSON with exactly
// these members in this order and without white space.
type List struct {
	Version   int    `json:"version"`   // 1
	PieceSize int64  `json:"pieceSize"` // Size
	Blobs     []Blob `json:"blobs"`     // the top manifest first, no digest twice
}

// Blob is one manifest, config or layer.
type Blob struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType"`
	// Pieces are the digests of the pieces, in order. A blob of at most one
	// piece has none: its own digest is the piece's.
	Pieces []digest.Digest `json:"pieces,omitempty"`
}

// Count is the number of pieces; a blob of 0 bytes has one, empty.
func (b Blob) Count() int { return Count(b.Size) }

// Count is the number of pieces of a blob of that many bytes.
func Count(size int64) int { return max(1, int((size+Size-1)/Size)) }

// Range is the place of piece i in the blob.
func (b Blob) Range(i int) (offset, length int64) {
	offset = int64(i) * Size
	return offset, min(Size, b.Size-offset)
}

// Check verifies the content of piece i.
func (b Blob) Check(i int, data []byte) error { return b.CheckDigest(i, digest.FromBytes(data)) }

// CheckDigest compares the digest of what arrived as piece i with what it must
// be.
func (b Blob) CheckDigest(i int, got digest.Digest) error {
	want := b.Digest
	if len(b.Pieces) > 0 {
		want = b.Pieces[i]
	}
	if got != want {
		return fmt.Errorf("piece %d of %s has digest %s, want %s", i, b.Digest, got, want)
	}
	return nil
}

// Marshal encodes the list.
func (l *List) Marshal() ([]byte, error) {
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("piece list: %w", err)
	}
	data, err := l.encode()
	if err == nil && len(data) > MaxList {
		err = fmt.Errorf("piece list of %d bytes: at most %d", len(data), MaxList)
	}
	return data, err
}

func (l *List) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("encoding a piece list: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Parse decodes and checks a list.
func Parse(data []byte) (*List, error) {
	if len(data) > MaxList {
		return nil, fmt.Errorf("piece list of %d bytes: at most %d", len(data), MaxList)
	}
	l := new(List)
	if err := bounded.Unmarshal(data, len(data)/minValue, l); err != nil {
		return nil, fmt.Errorf("piece list: %w", err)
	}
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("piece list: %w", err)
	}
	canonical, err := l.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, data) {
		return nil, errors.New("piece list: not in the canonical encoding")
	}
	return l, nil
}

func (l *List) validate() error {
	if l.Version != 1 || l.PieceSize != Size {
		return fmt.Errorf("version %d with pieces of %d bytes: want 1 and %d", l.Version, l.PieceSize, Size)
	}
	if len(l.Blobs) == 0 {
		return errors.New("no blobs")
	}
	seen := make(map[digest.Digest]bool, len(l.Blobs))
	for _, b := range l.Blobs {
		if err := b.validate(); err != nil {
			return err
		}
		if seen[b.Digest] {
			return fmt.Errorf("blob %s twice", b.Digest)
		}
		seen[b.Digest] = true
	}
	return nil
}

func (b Blob) validate() error {
	if err := ledger.CheckDigest(b.Digest); err != nil {
		return err
	}
	if b.Size < 0 || b.Size > maxBlobSize {
		return fmt.Errorf("blob %s of %d bytes", b.Digest, b.Size)
	}
	want := b.Count()
	if want == 1 {
		want = 0
	}
	if len(b.Pieces) != want {
		return fmt.Errorf("blob %s of %d bytes with %d pieces, want %d", b.Digest, b.Size, len(b.Pieces), want)
	}
	for _, p := range b.Pieces {
		if err := ledger.CheckDigest(p); err != nil {
			return fmt.Errorf("piece of %s: %w", b.Digest, err)
		}
	}
	return nil
}
