package controllers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// revoke has the publisher withdraw the image by a block of its own, and
// checks that block's proof.
func (r *ArtifactReconciler) revoke(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionRevoked
	if isTrue(art, condition) {
		return 0, nil
	}
	if art.Status.Block == nil {
		setDone(art, condition, "NeverPublished", "The image was revoked before it was published: it is not on the ledger")
		return 0, nil
	}
	publisher, node, err := r.Nodes.publisher(ctx, art.Namespace, art.Spec.PublisherRef.Name)
	if unusable, ok := errors.AsType[*unusableError](err); ok {
		setWaiting(art, condition, unusable.reason, unusable.message)
		return waitForPublisher, nil
	}
	if err != nil {
		return 0, err
	}
	resp, err := node.Revoke(ctx, control.RevokeRequest{
		Image: art.Spec.Image, Digest: art.Spec.Digest, Block: art.Status.Block.Height,
		Reason: art.Spec.Reason, Floor: publisher.Status.Ledger.Checkpoint,
	})
	if err != nil {
		return r.refused(art, condition, err)
	}
	b := resp.Block
	if tooLarge(b) {
		setFailed(art, condition, "InvalidBlock", "the publisher answered with an impossible block")
		return 0, fmt.Errorf("the publisher %s answered with an impossible block", publisher.Name)
	}
	verified, err := verifyRevocation(publisher.Status.Ledger.Key, art, b)
	if err != nil {
		setRefused(art, condition, "ProofInvalid", "the block that revokes the image does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying the revocation of %s: %w", art.Spec.Image, err)
	}
	art.Status.Revocation = revocationBlock(b, verified)
	setDone(art, condition, "Revoked", fmt.Sprintf("Block %d of the ledger withdraws the image, its proof was checked: mirrors refuse it", b.Height))
	return 0, nil
}

func revocationBlock(b control.Block, verified *ledger.VerifiedBlock) *v1alpha1.Block {
	return &v1alpha1.Block{
		Height: b.Height, Hash: hex.EncodeToString(verified.Hash[:]), Entry: b.Entry,
		Checkpoint: string(verified.Checkpoint.Signed), Proof: b.Proof,
	}
}

// tooLarge tells of a block that no ledger has.
func tooLarge(b control.Block) bool {
	return len(b.Entry) > ledger.MaxEntrySize || len(b.Proof) > maxProof
}

// verifyRevocation checks that a block withdraws an Artifact: its digest in all
// of its repository, or the block that the Artifact has.
func verifyRevocation(key string, art *v1alpha1.Artifact, b control.Block) (*ledger.VerifiedBlock, error) {
	v, err := ledger.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	image, err := ledger.ParseImage(art.Spec.Image)
	if err != nil {
		return nil, err
	}
	verified, _, err := ledger.VerifyWithdrawal(v, []byte(b.Entry), []byte(b.Proof),
		ledger.Target{Image: image, Digest: digest.Digest(art.Spec.Digest), Block: knownBlock(art)})
	if err != nil {
		return nil, err
	}
	if verified.Height != b.Height {
		return nil, errors.New("it is of another height")
	}
	return verified, nil
}

// knownBlock is the height of an Artifact's block; -1 if it has none.
func knownBlock(art *v1alpha1.Artifact) int64 {
	if art.Status.Block == nil {
		return -1
	}
	return art.Status.Block.Height
}
