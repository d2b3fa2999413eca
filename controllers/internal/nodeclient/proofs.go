package nodeclient

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// UnprovenError tells that a node's block does not verify.
type UnprovenError struct{ err error }

func (e *UnprovenError) Error() string { return e.err.Error() }

// find asks a pod for the block of an image.
func (v *Visit) find(ctx context.Context, pod corev1.Pod, image, digest string) (resp *control.FindResponse, err error) {
	err = v.Ask(ctx, pod, func(ctx context.Context, c *control.Client) (err error) {
		resp, err = c.Find(ctx, control.FindRequest{Image: image, Digest: digest})
		return err
	})
	return resp, err
}

// Proven asks a pod for the block of an image, and checks it against the ledger's key.
func (v *Visit) Proven(ctx context.Context, pod corev1.Pod, image, digest string) (*control.Block, error) {
	resp, err := v.find(ctx, pod, image, digest)
	if err != nil {
		return nil, err
	}
	if _, err := VerifyBlock(NewestKey(v.Node.Status.Ledger), resp.Block, image, digest); err != nil {
		return nil, &UnprovenError{fmt.Errorf("block of %s: %w", image, err)}
	}
	return &resp.Block, nil
}

// maxProof bounds a proof in bytes: a checkpoint of at most 96 KiB, and at most 64
// hashes.
const maxProof = 112 << 10

// VerifyRestoration checks that a block lifts the withdrawal of an Artifact's digest, and
// tells which block it lifts.
func VerifyRestoration(key string, art *v1alpha1.Artifact, b control.Block) (verified *ledger.VerifiedBlock, lifted int64, err error) {
	v, err := ledger.NewVerifier(key)
	if err != nil {
		return nil, 0, err
	}
	verified, r, err := ledger.VerifyRestoration(v, []byte(b.Entry), []byte(b.Proof))
	if err != nil {
		return nil, 0, err
	}
	image, err := ledger.ParseImage(art.Spec.Image)
	if err != nil {
		return nil, 0, err
	}
	if verified.Height != b.Height || r.Block >= verified.Height || r.Repository != image.Name() || string(r.Digest) != art.Spec.Digest {
		return nil, 0, errors.New("it is about another repository, digest or height")
	}
	return verified, r.Block, nil
}

// RevocationBlock is a verified block as the status keeps it.
func RevocationBlock(b control.Block, verified *ledger.VerifiedBlock) *v1alpha1.Block {
	return &v1alpha1.Block{
		Height: b.Height, Hash: hex.EncodeToString(verified.Hash[:]), Entry: b.Entry,
		Checkpoint: string(verified.Checkpoint.Signed), Proof: b.Proof,
	}
}

// TooLarge tells of a block that no ledger has.
func TooLarge(b control.Block) bool {
	return len(b.Entry) > ledger.MaxEntrySize || len(b.Proof) > maxProof
}

// VerifyRevocation checks that a block withdraws an Artifact: its digest in all
// of its repository, or the block that the Artifact has.
func VerifyRevocation(key string, art *v1alpha1.Artifact, b control.Block) (*ledger.VerifiedBlock, error) {
	v, err := ledger.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	image, err := ledger.ParseImage(art.Spec.Image)
	if err != nil {
		return nil, err
	}
	verified, _, err := ledger.VerifyWithdrawal(v, []byte(b.Entry), []byte(b.Proof),
		ledger.Target{Image: image, Digest: digest.Digest(art.Spec.Digest), Block: objects.KnownBlock(art)})
	if err != nil {
		return nil, err
	}
	if verified.Height != b.Height {
		return nil, errors.New("it is of another height")
	}
	return verified, nil
}

// VerifyBlock checks a block against a key, and that it is about an image.
func VerifyBlock(key string, b control.Block, image, digest string) (*ledger.VerifiedBlock, error) {
	v, err := ledger.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	block, err := ledger.VerifyBlock(v, []byte(b.Entry), []byte(b.Proof))
	if err != nil {
		return nil, err
	}
	if block.Height != b.Height || block.Artifact.Artifact != image || string(block.Artifact.Digest) != digest {
		return nil, errors.New("it is about another image, digest or height")
	}
	return block, nil
}

// Revocation is the proven block that withdraws an Artifact's block, if the pod
// has one.
func (v *Visit) Revocation(ctx context.Context, pod corev1.Pod, art *v1alpha1.Artifact) *v1alpha1.Block {
	found, err := v.find(ctx, pod, art.Spec.Image, art.Spec.Digest)
	if err != nil || found.Revocation == nil || TooLarge(*found.Revocation) {
		return nil
	}
	b := found.Revocation
	if found.Withdrawal != nil {
		b = found.Withdrawal
	}
	verified, err := VerifyRevocation(NewestKey(v.Node.Status.Ledger), art, *b)
	if err != nil {
		return nil // only the signer of the ledger can withdraw an image
	}
	return RevocationBlock(*b, verified)
}

// NewestKey is the key by which what a node proves is checked: while two keys sign,
// the one that will sign alone.
func NewestKey(l *v1alpha1.LedgerStatus) string { return cmp.Or(l.NewestKey, l.Key) }
