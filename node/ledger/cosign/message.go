package cosign

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// Subtree is the part [Start, End) of a log's entries, with the root of its Merkle tree. A whole tree is
// the subtree from zero.
type Subtree struct {
	Origin     string
	Start, End int64
	Hash       tlog.Hash
}

// check refuses what no cosignature may be of (draft-ietf-plants-merkle-tree-certs, Subtrees).
func (s Subtree) check() error {
	switch {
	case s.Origin == "" || len(s.Origin) > maxName:
		return fmt.Errorf("origin of %d bytes: an ML-DSA-44 cosignature names 1 to %d", len(s.Origin), maxName)
	case s.Start < 0 || s.End < s.Start || s.Start > 0 && s.End == s.Start:
		return fmt.Errorf("no entries in [%d, %d)", s.Start, s.End)
	case s.Start > 0 && s.Start&(1<<bits.Len64(uint64(s.End-s.Start-1))-1) != 0:
		return fmt.Errorf("[%d, %d) is no subtree: it must begin at a multiple of the power of two that holds its entries", s.Start, s.End)
	}
	return nil
}

// ParseCheckpoint reads the text of a checkpoint (c2sp.org/tlog-checkpoint) that is written in the one way
// that there is for it.
func ParseCheckpoint(text string) (torchwood.Checkpoint, error) {
	c, err := torchwood.ParseCheckpoint(text)
	if err != nil {
		return c, fmt.Errorf("text of a checkpoint: %w: want origin, size and root on a line each", err)
	}
	if c.Origin == "" || c.String() != text {
		return c, errors.New("text of a checkpoint: an empty origin, or a root with wrong base64")
	}
	return c, nil
}

// ed25519Message is what an Ed25519 cosignature signs (c2sp.org/tlog-cosignature, Ed25519 signed message).
func ed25519Message(t uint64, text string) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", t, text)
}

// mldsaMessage is what an ML-DSA-44 cosignature signs (ML-DSA-44 signed message): a cosigned_message in the
// presentation language of TLS. The names have been checked: their lengths fit a byte.
func mldsaMessage(name string, t uint64, s Subtree) []byte {
	out := []byte("subtree/v1\n\x00")
	out = append(out, byte(len(name)))
	out = append(out, name...)
	out = binary.BigEndian.AppendUint64(out, t)
	out = append(out, byte(len(s.Origin)))
	out = append(out, s.Origin...)
	out = binary.BigEndian.AppendUint64(out, uint64(s.Start))
	out = binary.BigEndian.AppendUint64(out, uint64(s.End))
	return append(out, s.Hash[:]...)
}

// cutTime splits a timestamped_signature. The time is not compared with this machine's clock: a clock that
// is behind must not make good cosignatures count for nothing.
func cutTime(sig []byte) (t uint64, rest []byte, ok bool) {
	if len(sig) < 8 {
		return 0, nil, false
	}
	t = binary.BigEndian.Uint64(sig)
	return t, sig[8:], t <= math.MaxInt64
}
