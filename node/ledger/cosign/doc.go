// Package cosign makes and checks cosignatures of checkpoints and subtrees (c2sp.org/tlog-cosignature),
// with Ed25519 and with ML-DSA-44, and keeps of a signed note only what verifies. It imports nothing of
// the project and touches no disk, so that every program can link it; package ledger, policies and the
// members that cosign call it.
package cosign
