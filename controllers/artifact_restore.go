package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// restore has the publisher lift what withdraws the image's digest, by a block
// whose proof is checked. The steps after it publish the image again: the block
// that it had stays withdrawn. Who may ask for it, the API server has decided.
func (r *ArtifactReconciler) restore(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionRestored
	if isTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	var resp *control.RestoreResponse
	var key string
	err := r.Nodes.askPublisher(ctx, art.Namespace, art.Spec.PublisherRef.Name, toWithdraw, func(ctx context.Context, publisher *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		key = newestKey(publisher.Status.Ledger)
		resp, err = c.Restore(ctx, control.RestoreRequest{
			Image: art.Spec.Image, Digest: art.Spec.Digest, Reason: art.Spec.Reason, Floor: publisher.Status.Ledger.Checkpoint,
		})
		return err
	})
	if err != nil {
		return r.refused(art, condition, err)
	}
	if tooLarge(resp.Block) {
		setFailed(art, condition, "InvalidBlock", "the publisher answered with an impossible block")
		return 0, fmt.Errorf("the publisher %s answered with an impossible block", art.Spec.PublisherRef.Name)
	}
	verified, lifted, err := verifyRestoration(key, art, resp.Block)
	if err != nil {
		setRefused(art, condition, "ProofInvalid", "the block that restores the image does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying the restoration of %s: %w", art.Spec.Image, err)
	}
	forgetBlock(art)
	art.Status.Restoration = revocationBlock(resp.Block, verified)
	setDone(art, condition, "Restored", fmt.Sprintf("Block %d of the ledger lifts the withdrawal by block %d, its proof was checked: the image is published again", resp.Block.Height, lifted))
	return 0, nil
}

// forgetBlock has an Artifact published anew.
func forgetBlock(art *v1alpha1.Artifact) {
	art.Status.Block, art.Status.Revocation = nil, nil
	for _, name := range append([]string{v1alpha1.ConditionRevoked}, v1alpha1.ArtifactSteps...) {
		meta.RemoveStatusCondition(&art.Status.Conditions, name)
	}
}

func verifyRestoration(key string, art *v1alpha1.Artifact, b control.Block) (verified *ledger.VerifiedBlock, lifted int64, err error) {
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
