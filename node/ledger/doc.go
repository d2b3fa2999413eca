// Package ledger is the append-only log of what a publisher published: a
// transparency log in the formats of c2sp.org (tlog-tiles, tlog-checkpoint,
// signed-note, tlog-proof). One log entry is one block, its index is the
// block's height, its RFC 6962 leaf hash is the block's hash.
//
// A Writer appends to it, a Follower keeps a verified copy; both are a Ledger,
// which answers from that copy: who published which image, and the proof. The
// package may import server, bounded and durable, and no other part of a node;
// nodes, the operator and every command call it.
package ledger
