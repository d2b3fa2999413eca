package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"golang.org/x/mod/sumdb/tlog"
)

// Key is what the index finds blocks by: the first 6 bytes of a SHA-256. Two
// values may share a key, so the caller checks the blocks that it finds.
type Key uint64

func keyOf(sum []byte) Key { return Key(binary.BigEndian.Uint64(sum) >> 16) }

// ImageKey is the key of an image's canonical name.
func ImageKey(image []byte) Key {
	var space [128]byte
	h := sha256.Sum256(append(space[:1], image...)) // a domain of its own, apart from content
	return keyOf(h[:])
}

// BlockKey is the key of what is said about a block.
func BlockKey(height int64) Key {
	h := tlog.RecordHash(binary.BigEndian.AppendUint64([]byte("block "), uint64(height)))
	return keyOf(h[:])
}

// WithdrawalsKey is the key of what withdraws or restores something: of a digest
// of a repository ("docker.io/library/alpine@sha256:..."), of a repository, or,
// if it is empty, of any.
func WithdrawalsKey(of string) Key {
	h := tlog.RecordHash([]byte("withdrawn " + of))
	return keyOf(h[:])
}

// RotationKey is the key of all blocks that hand the ledger over to another key.
var RotationKey = func() Key {
	h := tlog.RecordHash([]byte("rotation"))
	return keyOf(h[:])
}()

// DigestKey is the key of a SHA-256 digest ("sha256:" and 64 hex digits).
func DigestKey(d []byte) (Key, bool) {
	const prefix = "sha256:"
	if len(d) != len(prefix)+64 || !bytes.HasPrefix(d, []byte(prefix)) {
		return 0, false
	}
	var raw [8]byte
	if _, err := hex.Decode(raw[:], d[len(prefix):len(prefix)+16]); err != nil {
		return 0, false
	}
	return keyOf(raw[:]), true
}
