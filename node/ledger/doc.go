// Package ledger is the append-only log of what a publisher published: a
// transparency log in the formats of c2sp.org (tlog-tiles, tlog-checkpoint,
// signed-note, tlog-proof). One log entry is one block, its index is the
// block's height, its RFC 6962 leaf hash is the block's hash.
//
// It reads, writes and verifies entries, keys, proofs and checkpoints, and keeps
// nothing: package replica keeps a ledger on a disk. It may import bounded, and no
// other part of a node; nodes, the operator and every command call it.
package ledger
