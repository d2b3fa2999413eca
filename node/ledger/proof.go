package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a verified checkpoint of the ledger (c2sp.org/tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Tree   tlog.Tree // size in blocks, and root hash
	Signed []byte    // the signed note it was read from
}

// maxCheckpoint bounds a signed checkpoint in bytes; one signature takes about
// 200, and cosignatures of many witnesses fit too.
const maxCheckpoint = 16 << 10

// VerifyCheckpoint reads a signed checkpoint of the ledger whose key is v.
func VerifyCheckpoint(v note.Verifier, signed []byte) (Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d bytes: at most %d", len(signed), maxCheckpoint)
	}
	c, _, err := torchwood.VerifyCheckpoint(signed, policy(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return Checkpoint{Origin: c.Origin, Tree: c.Tree, Signed: signed}, nil
}

func policy(v note.Verifier) torchwood.Policy {
	return torchwood.ThresholdPolicy(2, torchwood.SingleVerifierPolicy(v), torchwood.OriginPolicy(v.Name()))
}

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
	proof := make(tlog.TreeProof, 0, len(hashes))
	for _, s := range hashes {
		h, err := tlog.ParseHash(s)
		if err != nil {
			return fmt.Errorf("consistency proof: %w", err)
		}
		proof = append(proof, h)
	}
	if err := tlog.CheckTree(proof, newer.Tree.N, newer.Tree.Hash, older.Tree.N, older.Tree.Hash); err != nil {
		return fmt.Errorf("ledger of %d blocks does not extend the verified one of %d: %w", newer.Tree.N, older.Tree.N, err)
	}
	return nil
}

// VerifiedBlock is a block whose inclusion in the ledger was proven.
type VerifiedBlock struct {
	Height     int64     // index in the log
	Hash       tlog.Hash // RFC 6962 leaf hash
	Checkpoint Checkpoint
	Artifact   *AddArtifact
}

// VerifyBlock checks an entry's inclusion proof (c2sp.org/tlog-proof) against
// the ledger's key, and decodes the entry.
func VerifyBlock(v note.Verifier, entry, proof []byte) (*VerifiedBlock, error) {
	hash := tlog.RecordHash(entry)
	if err := torchwood.VerifyProof(policy(v), hash, proof); err != nil {
		return nil, fmt.Errorf("inclusion proof: %w", err)
	}
	// VerifyProof has parsed all of it; what it does not hand out is read again.
	head, signed, _ := strings.Cut(string(proof), "\n\n")
	height, err := proofIndex(head)
	if err != nil {
		return nil, err
	}
	checkpoint, err := VerifyCheckpoint(v, []byte(signed))
	if err != nil {
		return nil, err
	}
	artifact, err := ParseEntry(entry)
	if err != nil {
		return nil, err
	}
	return &VerifiedBlock{Height: height, Hash: hash, Checkpoint: checkpoint, Artifact: artifact}, nil
}

func proofIndex(head string) (int64, error) {
	for line := range strings.Lines(head) {
		if s, ok := strings.CutPrefix(line, "index "); ok {
			return strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		}
	}
	return 0, errors.New("inclusion proof: no index line")
}

// EncodeHashes writes a proof's hashes in base64, as VerifyConsistency reads them.
func EncodeHashes(proof tlog.TreeProof) []string {
	out := make([]string, len(proof))
	for i, h := range proof {
		out[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return out
}
