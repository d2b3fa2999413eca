package tlogmirror

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger/subtree"
)

// packageEntries is how many entries a package has at most; packages begin at multiples
// of it, as bundles do.
const packageEntries = torchwood.TileWidth

// uploadHeader is how the body of add-entries begins.
type uploadHeader struct {
	origin     string
	start, end uint64
	ticket     []byte
}

func readUploadHeader(r io.Reader) (h uploadHeader, err error) {
	origin, err := readSized(r)
	if err != nil {
		return h, fmt.Errorf("the log's origin: %w", err)
	}
	var sizes [16]byte
	if _, err := io.ReadFull(r, sizes[:]); err != nil {
		return h, fmt.Errorf("upload_start and upload_end: %w", err)
	}
	h.origin = string(origin)
	h.start, h.end = binary.BigEndian.Uint64(sizes[:8]), binary.BigEndian.Uint64(sizes[8:])
	if h.ticket, err = readSized(r); err != nil {
		return h, fmt.Errorf("the ticket: %w", err)
	}
	if h.start > h.end {
		return h, fmt.Errorf("upload_start %d is above upload_end %d", h.start, h.end)
	}
	return h, nil
}

// readSized reads what follows on its 16-bit length.
func readSized(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	data := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, data)
	return data, err
}

// entryPackage are up to 256 entries with the proof that they are in a tree.
type entryPackage struct {
	start, end int64
	entries    [][]byte
	leaves     []tlog.Hash // of the entries
	proof      subtree.Proof
}

// rounded is where the package's subtree starts.
func rounded(start int64) int64 { return start / packageEntries * packageEntries }

// packageEnd is where the package ends that starts at an index (tlog-mirror, Request
// Body). An upload is at most of as many entries as a log can have.
func packageEnd(start, uploadEnd int64) int64 {
	if start > math.MaxInt64-packageEntries {
		return uploadEnd
	}
	return min(uploadEnd, rounded(start)+packageEntries)
}

var errLongProof = errors.New("a proof of more than 63 hashes")

// readPackage reads the package that starts at an index.
func readPackage(r *bufio.Reader, start, uploadEnd int64) (*entryPackage, error) {
	p := &entryPackage{start: start, end: packageEnd(start, uploadEnd)}
	for i := start; i < p.end; i++ {
		entry, err := readSized(r)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		p.entries = append(p.entries, entry)
		p.leaves = append(p.leaves, tlog.RecordHash(entry))
	}
	n, err := r.ReadByte()
	if err != nil {
		return nil, fmt.Errorf("the length of the proof of entries %d to %d: %w", start, p.end, err)
	}
	if n > subtree.MaxProof {
		return nil, errLongProof
	}
	p.proof = make(subtree.Proof, n)
	for i := range p.proof {
		if _, err := io.ReadFull(r, p.proof[i][:]); err != nil {
			return nil, fmt.Errorf("the proof of entries %d to %d: %w", start, p.end, err)
		}
	}
	return p, nil
}

// check verifies that the package's entries are in a tree. before are the hashes of the
// leaves between the start of its subtree and its own.
func (p *entryPackage) check(before []tlog.Hash, tree tlog.Tree) error {
	part := subtree.Range{Start: p.start - int64(len(before)), End: p.end}
	return subtree.CheckConsistency(p.proof, part, subtree.HashLeaves(append(before, p.leaves...)), tree)
}
