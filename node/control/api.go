// Package control is the control API of a Pyrsia node: its types, its server
// and its client. It is HTTP and JSON over mutually authenticated TLS 1.3 with
// pinned ed25519 keys, and the operator is its only caller. Answers need not be
// trusted: blocks come with their proofs, and checkpoints with the publisher's
// signature. It imports only bounded and durable.
package control

import (
	"fmt"
	"time"
)

// Port is the TCP port on which nodes serve the control API.
const Port = 9443

// OperatorConnections is how many connections a node takes at this port from one
// address. Each of the operator's workers may wait for an answer at the same time.
const OperatorConnections = 256

// Role is what a node does in its network.
type Role string

// The roles of a node.
const (
	// Publisher copies images from upstream registries and writes the ledger.
	Publisher Role = "Publisher"
	// Mirror follows the ledger and serves what is on it.
	Mirror Role = "Mirror"
)

// Status is the answer of GET /v1/status?since=SIZE.
type Status struct {
	Role    Role   `json:"role"`
	Version string `json:"version"`
	// PeerID is the libp2p identity of the node, in base58.
	PeerID string `json:"peerID"`
	// Addrs are the multiaddrs at which the node listens for peers, without
	// the /p2p part.
	Addrs []string `json:"addrs"`
	// Peers is the number of connected peers of this network.
	Peers  int          `json:"peers"`
	Ledger LedgerStatus `json:"ledger"`
	// Alarms are what a person must look at; empty if all is well.
	Alarms []Alarm `json:"alarms,omitempty"`
}

// AlarmKind is a machine-readable cause of an alarm, in CamelCase.
type AlarmKind string

// The kinds of alarms.
const (
	// AlarmLedgerForked: the publisher signed two ledgers that contradict each other.
	AlarmLedgerForked AlarmKind = "LedgerForked"
	// AlarmLedgerRolledBack: the publisher signed a smaller ledger than before.
	AlarmLedgerRolledBack AlarmKind = "LedgerRolledBack"
	// AlarmLedgerKeyMisused: a key that has handed the ledger over signs on, or a
	// key has handed it over to two keys: it is in the wrong hands.
	AlarmLedgerKeyMisused AlarmKind = "LedgerKeyMisused"
	// AlarmLedgerKeyChanged: the ledger was handed over to a key that was not
	// acknowledged.
	AlarmLedgerKeyChanged AlarmKind = "LedgerKeyChanged"
	// AlarmLedgerStale: the publisher has not signed the ledger for too long.
	AlarmLedgerStale AlarmKind = "LedgerStale"
	// AlarmDiskFull: the disk of the node's data is almost full.
	AlarmDiskFull AlarmKind = "DiskFull"
	// AlarmVerificationFailed: content on the node's disk was not what its
	// digest says, within the last hour.
	AlarmVerificationFailed AlarmKind = "VerificationFailed"
	// AlarmContentUnavailable: pulls were refused, within the last ten minutes,
	// because no node with the content could be reached.
	AlarmContentUnavailable AlarmKind = "ContentUnavailable"
)

// Alarm is something that a person must look at.
type Alarm struct {
	Kind AlarmKind `json:"kind"`
	// Message says what is wrong. It stays the same as long as the cause does.
	Message string `json:"message"`
	// Since is when the node saw the newest evidence of it; zero if the alarm is
	// not about evidence, and ends by itself.
	Since time.Time `json:"since,omitzero"`
	// Keys are the keys to which the ledger was handed over, for
	// LedgerKeyChanged.
	Keys []string `json:"keys,omitempty"`
}

// Rotation proves, to a reader that trusts the previous key, that the ledger
// was handed over to the next one.
type Rotation struct {
	// Entry is the RotateKey entry, as the ledger package parses it.
	Entry string `json:"entry"`
	// Proof is its c2sp.org/tlog-proof.
	Proof string `json:"proof"`
}

// LedgerStatus is the newest state of the ledger that the node has verified.
type LedgerStatus struct {
	// Key is the ledger's verifier key (c2sp.org/signed-note).
	Key string `json:"key"`
	// Rotations are the keys to which the ledger was handed over, the oldest first.
	Rotations []Rotation `json:"rotations,omitempty"`
	// Checkpoint is the signed checkpoint (c2sp.org/tlog-checkpoint); empty
	// on a mirror that has not yet seen one.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Consistency proves that the ledger extends the first SIZE blocks of the
	// request's since=SIZE (RFC 6962, section 2.1.2): base64 hashes. It is
	// absent when since is 0, or not smaller than the ledger.
	Consistency []string `json:"consistency,omitempty"`
}

// ResolveRequest is the body of POST /v1/resolve: to which digest does the
// upstream registry resolve this image now? Publishers only.
type ResolveRequest struct {
	// Image is a reference with a tag: "docker.io/library/alpine:3.20".
	Image string `json:"image"`
}

// ResolveResponse is the upstream's answer.
type ResolveResponse struct {
	Digest string `json:"digest"`
	// Current is the digest of the image's newest block; empty if there is none.
	Current string `json:"current,omitempty"`
	// RateLimit is there when the upstream has told of one.
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
}

// PublishRequest is the body of POST /v1/publish: copy the image from its
// upstream and record it on the ledger. The call is idempotent. It starts the
// work and waits for its end during the first few seconds of it, else it tells how
// far it is.
// What the upstream says about the tag decides: where it does not point to the
// digest, a publisher refuses with ReasonTagPointsElsewhere, or with
// ReasonDigestNotInRepository. Publishers only.
type PublishRequest struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// Platforms are those to copy, all if there are none: "linux/arm64".
	Platforms []string `json:"platforms,omitempty"`
	// Seen says that a set of the operator holds the image with this digest since
	// it last had its tag resolved. If the tag points elsewhere by now, the block
	// says when the publisher, which was asked then, saw it there. It is sent
	// only after a refusal with ReasonTagPointsElsewhere.
	Seen bool `json:"seen,omitempty"`
	// Pinned has the digest recorded although the tag points elsewhere. The block
	// says so.
	Pinned bool `json:"pinned,omitempty"`
	// Floor is the newest checkpoint that the operator has verified. A
	// publisher whose ledger does not contain it (a disk that was rolled
	// back) refuses with ReasonLedgerBehind.
	Floor string `json:"floor,omitempty"`
}

// PublishResponse tells how far a publication is.
type PublishResponse struct {
	// Block is there when the image is on the ledger: done.
	Block *Block `json:"block,omitempty"`
	// Queued says that the work has not begun: others are copied first.
	Queued bool `json:"queued,omitempty"`
	// BytesDone of BytesTotal are copied; BytesTotal is 0 until it is known.
	BytesDone  int64 `json:"bytesDone,omitempty"`
	BytesTotal int64 `json:"bytesTotal,omitempty"`
}

// Block is one entry of the ledger with its proof.
type Block struct {
	// Height is the index of the entry in the log.
	Height int64 `json:"height"`
	// Entry is the entry itself: the JSON that the ledger package parses.
	Entry string `json:"entry"`
	// Proof is a c2sp.org/tlog-proof of the entry under a signed checkpoint.
	Proof string `json:"proof"`
}

// Reason is a machine-readable cause of a refusal. Reasons are CamelCase, so
// that they can stand in a Kubernetes condition.
type Reason string

// The reasons with which a node refuses.
const (
	ReasonInvalidRequest       Reason = "InvalidRequest"
	ReasonNotPublisher         Reason = "NotPublisher"
	ReasonImageNotFound        Reason = "ImageNotFound"
	ReasonUpstreamUnauthorized Reason = "UpstreamUnauthorized"
	ReasonUpstreamRateLimited  Reason = "UpstreamRateLimited"
	ReasonUpstreamUnavailable  Reason = "UpstreamUnavailable"
	ReasonUpstreamInvalid      Reason = "UpstreamInvalid"
	// ReasonRepositoryPrivate: only the publisher's login can read the repository,
	// and its settings do not say that it may be published.
	ReasonRepositoryPrivate Reason = "RepositoryPrivate"
	// ReasonTagPointsElsewhere: the upstream's tag does not point to the digest.
	ReasonTagPointsElsewhere Reason = "TagPointsElsewhere"
	// ReasonDigestNotInRepository: the upstream has no such digest in the repository.
	ReasonDigestNotInRepository Reason = "DigestNotInRepository"
	// ReasonSuperseded: the tag went on since it was seen at the digest.
	ReasonSuperseded     Reason = "Superseded"
	ReasonLedgerBehind   Reason = "LedgerBehind"
	ReasonRevoked        Reason = "Revoked"
	ReasonDiskFull       Reason = "DiskFull"
	ReasonCatalogInvalid Reason = "CatalogInvalid"
	// ReasonPlatformsMissing: the block has fewer platforms (publishers of v0.1.0 alone).
	ReasonPlatformsMissing Reason = "PlatformsMissing"
	ReasonNotOnLedger      Reason = "NotOnLedger"
	ReasonBusy             Reason = "PublisherBusy"
	ReasonInternal         Reason = "InternalError"
)

// Error is a refusal by the node, and the JSON body of every answer that is
// not 200.
type Error struct {
	Reason Reason `json:"reason"`
	// Message says what was wrong and what to do.
	Message string `json:"message"`
	// RetryAfterSeconds is how long the node asks to be left alone; 0 if it
	// does not say.
	RetryAfterSeconds int `json:"retryAfterSeconds,omitempty"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Permanent tells whether the same request would be refused again until
// somebody changes it.
func (e *Error) Permanent() bool {
	return e.Reason == ReasonInvalidRequest || e.Reason == ReasonNotPublisher || e.Reason == ReasonRevoked || e.Reason == ReasonPlatformsMissing
}
