// Package policy reads trust policies (c2sp.org/tlog-policy): which cosigners must have cosigned a checkpoint
// before it counts, and what that is worth. It imports package cosign alone and touches no disk; nodes, the
// operator and everything that verifies call it.
//
// # Log keys and their rotation
//
// A policy says by its log lines who may sign a checkpoint, and by its quorum who must have seen it. A ledger's
// key is rotated more often than its cosigners change, so Pyrsia takes the first half from elsewhere wherever
// it can: from the pinned key and the proofs by which it was handed over (CheckOf, with a ledger.Verifier). The
// policy that the operator writes has no log line, and its hash stays the same over a rotation.
//
// A policy with log lines, which a user pasted, is for the ledger if one of its log keys is one of the ledger's,
// the pinned one or one that follows on it (IsFor). CheckOf does not read the lines then: that a key counts which
// follows on a listed one is just what the hand-over proves, and a key that has handed over must not count again
// because a text still lists it. Programs that know no hand-overs read the log lines alone (Check). For them the
// new key is added as a second log line before the old one stops signing, and the old line removed after that;
// both texts have the same quorum, so that neither is weaker.
package policy
