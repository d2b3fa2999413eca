package ledger

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// TypeRestoreArtifact lifts the withdrawal of a digest.
const TypeRestoreArtifact = "RestoreArtifact"

// RevokeDigest is RevokeArtifact, version 2: the entry that withdraws a digest
// in a repository, that of an artifact or of one platform's manifest. It binds
// every block of the repository, before and after it and under every tag, until
// a RestoreArtifact lifts it. It is encoded like AddArtifact.
type RevokeDigest struct {
	Type    string `json:"type"`    // TypeRevokeArtifact
	Version int    `json:"version"` // 2
	// Repository is canonical: "docker.io/library/alpine".
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	// Reason tells people why: one line of text.
	Reason string `json:"reason"`
	// Time is when the publisher recorded it: RFC 3339, UTC, whole seconds.
	Time time.Time `json:"time"`
}

// RestoreArtifact is the entry that lifts what withdrew a digest in a
// repository, up to a block: by RevokeDigest, so that it binds blocks no more,
// and by RevokeArtifact, so that the digest may be published again. Blocks that
// a RevokeArtifact names stay withdrawn: the image needs a new one. It is encoded
// like AddArtifact.
type RestoreArtifact struct {
	Type       string        `json:"type"`    // TypeRestoreArtifact
	Version    int           `json:"version"` // 1
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	// Block is the height of the newest block that is lifted, smaller than its
	// own: what withdraws the digest later stands.
	Block  int64     `json:"block"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// Marshal encodes the entry.
func (e *RevokeDigest) Marshal() ([]byte, error) { return marshal(e) }

// Marshal encodes the entry.
func (e *RestoreArtifact) Marshal() ([]byte, error) { return marshal(e) }

// ParseWithdrawal decodes and checks a RevokeArtifact entry of version 2.
func ParseWithdrawal(data []byte) (*RevokeDigest, error) {
	e := new(RevokeDigest)
	return e, parse(data, TypeRevokeArtifact, 2, e)
}

// ParseRestoration decodes and checks a RestoreArtifact entry.
func ParseRestoration(data []byte) (*RestoreArtifact, error) {
	e := new(RestoreArtifact)
	return e, parse(data, TypeRestoreArtifact, 1, e)
}

func (e *RevokeDigest) validate() error {
	if e.Type != TypeRevokeArtifact || e.Version != 2 {
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	}
	return errors.Join(checkReason(e.Reason), checkRepository(e.Repository), CheckDigest(e.Digest), checkTime(e.Time))
}

func (e *RestoreArtifact) validate() error {
	if e.Type != TypeRestoreArtifact || e.Version != 1 {
		return fmt.Errorf("type %q version %d", e.Type, e.Version)
	}
	if e.Block < 0 {
		return fmt.Errorf("block %d", e.Block)
	}
	return errors.Join(checkReason(e.Reason), checkRepository(e.Repository), CheckDigest(e.Digest), checkTime(e.Time))
}

// checkRepository accepts a repository's canonical name.
func checkRepository(name string) error {
	image, err := ParseImage(name + ":x")
	if err != nil {
		return err
	}
	if image.Name() != name {
		return fmt.Errorf("repository %.80q: the canonical name is %q", name, image.Name())
	}
	return nil
}

// repositoryOf is the repository of an image's name, which has a tag.
func repositoryOf(image string) string { return image[:strings.LastIndexByte(image, ':')] }

// Repository is the canonical name of the artifact's repository.
func (e *AddArtifact) Repository() string { return repositoryOf(e.Name()) }

// Withdraws is the digest of a repository that the block withdraws or restores,
// in the one block that it names or in all.
func (e *Entry) Withdraws() (repository string, d digest.Digest) {
	switch {
	case e.Revocation != nil:
		return repositoryOf(canonicalName(e.Revocation.Artifact)), e.Revocation.Digest
	case e.Withdrawal != nil:
		return e.Withdrawal.Repository, e.Withdrawal.Digest
	case e.Restoration != nil:
		return e.Restoration.Repository, e.Restoration.Digest
	}
	return "", ""
}

// Reason is why a block withdraws or restores something.
func (e *Entry) Reason() string {
	switch {
	case e.Revocation != nil:
		return e.Revocation.Reason
	case e.Withdrawal != nil:
		return e.Withdrawal.Reason
	case e.Restoration != nil:
		return e.Restoration.Reason
	}
	return ""
}

// WithdrawnError refuses what the publisher has withdrawn.
type WithdrawnError struct {
	By *Entry // the block that withdraws it
}

func (e *WithdrawnError) Error() string {
	repository, d := e.By.Withdraws()
	if r := e.By.Revocation; r != nil {
		repository = r.Artifact
	}
	return fmt.Sprintf("%s@%s was withdrawn by the publisher in block %d: %s", repository, d, e.By.Height, e.By.Reason())
}

// Target is what a block may withdraw.
type Target struct {
	Image  Image
	Digest digest.Digest
	Block  int64 // that records it; -1: none does
}

// VerifyWithdrawal is VerifyBlock for an entry that withdraws a block or a
// digest. It returns why.
func VerifyWithdrawal(v *Verifier, entry, proof []byte, t Target) (*VerifiedBlock, string, error) {
	b, err := VerifyInclusion(v, entry, proof)
	if err != nil {
		return nil, "", err
	}
	if r, err := ParseRevocation(entry); err == nil {
		if r.Block != t.Block || r.Digest != t.Digest || canonicalName(r.Artifact) != t.Image.String() || b.Height <= r.Block {
			return nil, "", errors.New("it withdraws another image, digest or block")
		}
		return b, r.Reason, nil
	}
	w, err := ParseWithdrawal(entry)
	if err != nil {
		return nil, "", err
	}
	if w.Repository != t.Image.Name() || w.Digest != t.Digest {
		return nil, "", errors.New("it withdraws another repository's image, or another digest")
	}
	return b, w.Reason, nil
}

// VerifyRestoration is VerifyBlock for an entry that lifts a withdrawal.
func VerifyRestoration(v *Verifier, entry, proof []byte) (*VerifiedBlock, *RestoreArtifact, error) {
	b, err := VerifyInclusion(v, entry, proof)
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseRestoration(entry)
	return b, r, err
}
