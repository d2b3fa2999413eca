package controllers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// revoke has the publisher withdraw the digest in the image's repository, whether
// or not it was published, and checks the proof of the block that does so.
func (r *ArtifactReconciler) revoke(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionRevoked
	if isTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	var resp *control.RevokeResponse
	var key string
	err := r.Nodes.askPublisher(ctx, art.Namespace, art.Spec.PublisherRef.Name, toWithdraw, func(ctx context.Context, publisher *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		key = newestKey(publisher.Status.Ledger)
		resp, err = c.Revoke(ctx, control.RevokeRequest{
			Image: art.Spec.Image, Digest: art.Spec.Digest, Block: knownBlock(art),
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
	if tooLarge(b) {
		setFailed(art, condition, "InvalidBlock", "the publisher answered with an impossible block")
		return 0, fmt.Errorf("the publisher %s answered with an impossible block", art.Spec.PublisherRef.Name)
	}
	verified, err := verifyRevocation(key, art, b)
	if err != nil {
		setRefused(art, condition, "ProofInvalid", "the block that revokes the image does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying the revocation of %s: %w", art.Spec.Image, err)
	}
	art.Status.Revocation = revocationBlock(b, verified)
	art.Status.Restoration = nil
	meta.RemoveStatusCondition(&art.Status.Conditions, v1alpha1.ConditionRestored)
	setDone(art, condition, "Revoked", revokedMessage(b.Height, resp))
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
