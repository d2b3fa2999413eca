package artifact

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// restore has the publisher lift what withdraws the image's digest, by a block
// whose proof is checked. The steps after it publish the image again: the block
// that it had stays withdrawn. The API server has decided who may set that
// state.
func (r *Reconciler) restore(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionRestored
	if status.IsTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	var resp *control.RestoreResponse
	var key string
	err := r.Nodes.AskPublisher(ctx, art.Namespace, art.Spec.PublisherRef.Name, nodeclient.ToWithdraw, func(ctx context.Context, publisher *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		key = nodeclient.NewestKey(publisher.Status.Ledger)
		resp, err = c.Restore(ctx, control.RestoreRequest{
			Image: art.Spec.Image, Digest: art.Spec.Digest, Reason: art.Spec.Reason, Floor: publisher.Status.Ledger.Checkpoint,
		})
		return err
	})
	if err != nil {
		return r.refused(art, condition, err)
	}
	if nodeclient.TooLarge(resp.Block) {
		return 0, impossible(art, condition)
	}
	verified, lifted, err := nodeclient.VerifyRestoration(key, art, resp.Block)
	if err != nil {
		status.SetRefused(art, condition, v1alpha1.ReasonProofInvalid, "the block that restores the image does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying the restoration of %s: %w", art.Spec.Image, err)
	}
	forgetBlock(art)
	art.Status.Restoration = nodeclient.RevocationBlock(resp.Block, verified)
	status.SetDone(art, condition, v1alpha1.ReasonRestored, fmt.Sprintf("Block %d of the ledger lifts the withdrawal by block %d, its proof was checked: the image is published again", resp.Block.Height, lifted))
	return 0, nil
}

// forgetBlock has an Artifact published anew.
func forgetBlock(art *v1alpha1.Artifact) {
	art.Status.Block, art.Status.Revocation = nil, nil
	for _, name := range append([]string{v1alpha1.ConditionRevoked}, v1alpha1.ArtifactSteps...) {
		meta.RemoveStatusCondition(&art.Status.Conditions, name)
	}
}
