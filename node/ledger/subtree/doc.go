// Package subtree is about parts of a ledger's Merkle tree: hashes of ranges of
// its leaves, and proofs that a leaf is in one and that one is in the tree
// (draft-ietf-plants-merkle-tree-certs, section 4, editors' copy of 2026-08-20).
// It imports nothing of this project; what cosigns, mirrors and checks ledgers
// calls it.
package subtree
