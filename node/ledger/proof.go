package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrOtherKey is returned for a proof that another key of the same ledger signed
// than the ones that are trusted.
var ErrOtherKey = errors.New("signed by a retired key: fetch it again; or by a newer one than the pinned key: pin the newest one")

// maxProof bounds a tlog-proof: at most 63 hashes, and a checkpoint.
const maxProof = 8<<10 + MaxCheckpoint

// VerifyConsistency checks that the ledger at newer extends the ledger at
// older. hashes is the proof of RFC 6962, section 2.1.2, in base64; it is
// empty when the sizes are the same.
func VerifyConsistency(older, newer Checkpoint, hashes []string) error {
	if newer.Tree.N < older.Tree.N {
		return fmt.Errorf("ledger of %d blocks is older than the verified one of %d", newer.Tree.N, older.Tree.N)
	}
	if newer.Tree.N == older.Tree.N {
		if newer.Tree.Hash != older.Tree.Hash {
			return fmt.Errorf("two ledgers of %d blocks: roots %s and %s", older.Tree.N, older.Tree.Hash, newer.Tree.Hash)
		}
		return nil
	}
	if older.Tree.N == 0 {
		return nil
	}
	proof, err := decodeHashes(hashes)
	if err != nil {
		return fmt.Errorf("consistency proof: %w", err)
	}
	if err := tlog.CheckTree(proof, newer.Tree.N, newer.Tree.Hash, older.Tree.N, older.Tree.Hash); err != nil {
		return fmt.Errorf("ledger of %d blocks does not extend the verified one of %d: %w", newer.Tree.N, older.Tree.N, err)
	}
	return nil
}

// Includes checks that an entry is the block at a height of the checkpoint's tree.
// hashes is the inclusion proof of RFC 6962, section 2.1.1, in base64.
func (c Checkpoint) Includes(height int64, entry []byte, hashes []string) error {
	proof, err := decodeHashes(hashes)
	if err != nil {
		return fmt.Errorf("inclusion proof: %w", err)
	}
	if err := tlog.CheckRecord(tlog.RecordProof(proof), c.Tree.N, c.Tree.Hash, height, tlog.RecordHash(entry)); err != nil {
		return fmt.Errorf("block %d is not in the ledger of %d blocks: %w", height, c.Tree.N, err)
	}
	return nil
}

// VerifiedBlock is a block whose inclusion in the ledger was proven.
type VerifiedBlock struct {
	Height     int64     // index in the log
	Hash       tlog.Hash // RFC 6962 leaf hash
	Checkpoint Checkpoint
	Artifact   *AddArtifact // nil if the block is of another type
}

// VerifyBlock checks the inclusion proof (c2sp.org/tlog-proof) of an
// AddArtifact entry against the ledger's keys, and decodes the entry.
func VerifyBlock(v *Verifier, entry, proof []byte) (*VerifiedBlock, error) {
	b, err := VerifyInclusion(v, entry, proof)
	if err != nil {
		return nil, err
	}
	b.Artifact, err = ParseEntry(entry)
	return b, err
}

// VerifyInclusion checks the inclusion proof of an entry of any type.
func VerifyInclusion(v *Verifier, entry, proof []byte) (*VerifiedBlock, error) {
	if len(proof) > maxProof {
		return nil, fmt.Errorf("inclusion proof of %d bytes: at most %d", len(proof), maxProof)
	}
	hash := tlog.RecordHash(entry)
	_, signed, _ := strings.Cut(string(proof), "\n\n")
	if err := torchwood.VerifyProof(v, hash, proof); err != nil {
		if v.isOfAnotherKey(signed) {
			err = fmt.Errorf("%w: %w", ErrOtherKey, err)
		}
		return nil, fmt.Errorf("inclusion proof: %w", err)
	}
	// VerifyProof has parsed all of it; what it does not hand out is read again.
	height, err := ProofHeight(string(proof))
	if err != nil {
		return nil, err
	}
	checkpoint, err := VerifyCheckpoint(v, []byte(signed))
	if err != nil {
		return nil, err
	}
	return &VerifiedBlock{Height: height, Hash: hash, Checkpoint: checkpoint}, nil
}

// ProofHeight is the height of the block that a tlog-proof is about.
func ProofHeight(proof string) (int64, error) {
	head, _, _ := strings.Cut(proof, "\n\n")
	for line := range strings.Lines(head) {
		if s, ok := strings.CutPrefix(line, "index "); ok {
			s = strings.TrimSuffix(s, "\n")
			height, err := strconv.ParseInt(s, 10, 64)
			if err != nil || height < 0 || strconv.FormatInt(height, 10) != s {
				return 0, fmt.Errorf("inclusion proof: index %.40q: want a decimal without leading zeroes", s)
			}
			return height, nil
		}
	}
	return 0, errors.New("inclusion proof: no index line")
}

// EncodeHashes writes a proof's hashes in base64, as VerifyConsistency and Includes
// read them.
func EncodeHashes(proof []tlog.Hash) []string {
	out := make([]string, len(proof))
	for i, h := range proof {
		out[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return out
}

func decodeHashes(hashes []string) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, 0, len(hashes))
	for _, s := range hashes {
		h, err := tlog.ParseHash(s)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}
