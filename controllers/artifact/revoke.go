package artifact

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// revoke has the publisher withdraw the digest in the image's repository, whether
// or not it was published, and checks the proof of the block that does so.
func (r *Reconciler) revoke(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionRevoked
	if status.IsTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	var resp *control.RevokeResponse
	var key string
	err := r.Nodes.AskPublisher(ctx, art.Namespace, art.Spec.PublisherRef.Name, nodeclient.ToWithdraw, func(ctx context.Context, publisher *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		key = nodeclient.NewestKey(publisher.Status.Ledger)
		resp, err = c.Revoke(ctx, control.RevokeRequest{
			Image: art.Spec.Image, Digest: art.Spec.Digest, Block: objects.KnownBlock(art),
			Reason: art.Spec.Reason, Floor: publisher.Status.Ledger.Checkpoint,
		})
		return err
	})
	if err != nil {
		return r.refused(art, condition, err)
	}
	b := resp.Block
	if resp.Withdrawal != nil { // a publisher of v0.1.0 withdraws one block alone
		b = *resp.Withdrawal
	}
	if nodeclient.TooLarge(b) {
		return 0, impossible(art, condition)
	}
	verified, err := nodeclient.VerifyRevocation(key, art, b)
	if err != nil {
		status.SetRefused(art, condition, v1alpha1.ReasonProofInvalid, "the block that revokes the image does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying the revocation of %s: %w", art.Spec.Image, err)
	}
	art.Status.Revocation = nodeclient.RevocationBlock(b, verified)
	art.Status.Restoration = nil
	meta.RemoveStatusCondition(&art.Status.Conditions, v1alpha1.ConditionRestored)
	status.SetDone(art, condition, v1alpha1.ReasonRevoked, revokedMessage(b.Height, resp))
	return 0, nil
}

// revokedMessage says what is withdrawn: the digest may have more tags than the
// Artifact's, and be a platform of others.
func revokedMessage(height int64, resp *control.RevokeResponse) string {
	message := fmt.Sprintf("Block %d of the ledger withdraws the image, its proof was checked: mirrors refuse it", height)
	if len(resp.Tags) > 0 {
		message += "; its tags: " + strings.Join(resp.Tags, ", ")
	}
	if len(resp.Indexes) > 0 {
		message += "; it is a platform, which is refused, of: " + strings.Join(resp.Indexes, ", ")
	}
	return message
}
