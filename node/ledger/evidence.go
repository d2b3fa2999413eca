package ledger

import "time"

// EvidenceKind says what a peer, or the publisher, has done.
type EvidenceKind string

// The kinds of evidence. A Fork proves that the publisher misbehaved, if one key
// signed both checkpoints (Convict). A Rollback is a publisher on an older disk, or with a
// clock that was wrong. RetiredKey and TwoSuccessors mean that somebody else may
// have the ledger's keys, and NewKey is not a refusal but has to be
// acknowledged. The others are about a peer only.
const (
	EvidenceFork          EvidenceKind = "Fork"          // two checkpoints that contradict each other
	EvidenceRetiredKey    EvidenceKind = "RetiredKey"    // a key that has handed the ledger over signs on
	EvidenceTwoSuccessors EvidenceKind = "TwoSuccessors" // a key hands the ledger over to two keys
	EvidenceRollback      EvidenceKind = "Rollback"      // a smaller ledger was signed after a larger one
	EvidenceNewKey        EvidenceKind = "NewKey"        // the ledger was handed over to another key, and followed
	EvidenceBadSignature  EvidenceKind = "BadSignature"  // a checkpoint that no trusted key signed, or of another ledger
	EvidenceBadData       EvidenceKind = "BadData"       // blocks or tiles that are not what the checkpoint commits to
)

// EvidenceKinds are all kinds, the gravest first.
var EvidenceKinds = []EvidenceKind{
	EvidenceFork, EvidenceRetiredKey, EvidenceTwoSuccessors, EvidenceRollback, EvidenceNewKey, EvidenceBadSignature, EvidenceBadData,
}

// Evidence is what was refused, and why.
type Evidence struct {
	Kind EvidenceKind `json:"kind"`
	// Time is when it was seen first.
	Time time.Time `json:"time"`
	// Peer is the sender.
	Peer    string `json:"peer"`
	Message string `json:"message"`
	// Verified is the signed checkpoint that was verified before; empty if
	// there was none.
	Verified string `json:"verified,omitempty"`
	// Received is the checkpoint that was refused, or under which the data was.
	Received string `json:"received,omitempty"`
	// Key is the key that it is about: the one to which the ledger was handed over,
	// or the retired one.
	Key string `json:"key,omitempty"`
	// Rotations are the hand-overs that it is about.
	Rotations []Rotation `json:"rotations,omitempty"`
	// Keys are the verifier keys of those that signed Verified and Received, so that the evidence needs nothing else
	// to be judged (Convict).
	Keys []string `json:"keys,omitempty"`
	// Root is the root of the larger tree's first blocks, as many as the smaller one has, and Proof the consistency
	// proof of it in base64. They are there if the sizes of Verified and Received differ, and the roots contradict
	// each other.
	Root  string   `json:"root,omitempty"`
	Proof []string `json:"proof,omitempty"`
	// Acknowledged says that a person has looked at it, which ends its alarm. It
	// is not in the file.
	Acknowledged bool `json:"acknowledged,omitempty"`
}
