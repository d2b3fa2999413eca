package replica

import (
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// storedHashes are all hashes of a tree (x/mod/sumdb/tlog). It implements
// tlog.HashReader.
type storedHashes struct {
	leaves int64
	hashes []tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (s *storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(s.hashes)) {
			return nil, fmt.Errorf("the tree has no hash %d", x)
		}
		out[i] = s.hashes[x]
	}
	return out, nil
}

// add adds the next leaves.
func (s *storedHashes) add(leaves []byte) error {
	for ; len(leaves) > 0; leaves = leaves[tlog.HashSize:] {
		added, err := tlog.StoredHashesForRecordHash(s.leaves, tlog.Hash(leaves[:tlog.HashSize]), s)
		if err != nil {
			return fmt.Errorf("hashing the ledger: %w", err)
		}
		s.hashes = append(s.hashes, added...)
		s.leaves++
	}
	return nil
}

// entryHashes are the leaf hashes of a bundle's entries.
func entryHashes(t tlog.Tile, bundle []byte) (leaves []byte, err error) {
	for range t.W {
		var entry []byte
		if entry, bundle, err = torchwood.ReadTileEntry(bundle); err != nil {
			return nil, fmt.Errorf("it is too short: %w", err)
		}
		h := tlog.RecordHash(entry)
		leaves = append(leaves, h[:]...)
	}
	if len(bundle) > 0 {
		return nil, fmt.Errorf("%d bytes follow on its %d entries", len(bundle), t.W)
	}
	return leaves, nil
}
