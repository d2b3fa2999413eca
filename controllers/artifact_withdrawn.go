package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// askWithdrawn is how often a node is asked whether its ledger has withdrawn an
// image that was looked up.
const askWithdrawn = 10 * time.Minute

// withdrawn looks whether the ledger has withdrawn the image of an Artifact that
// names a node: then it is verified no more. One pod with a proof is enough.
func (r *ArtifactReconciler) withdrawn(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	if art.Status.Revocation == nil {
		if !isTrue(art, v1alpha1.ConditionVerified) {
			return 0, nil
		}
		node, pods, err := r.Nodes.usable(ctx, art.Namespace, art.Spec.NodeRef.Name, "node")
		if _, ok := errors.AsType[*unusableError](err); ok {
			return askWithdrawn, nil
		}
		if err != nil {
			return 0, err
		}
		v, err := r.Nodes.visit(node, toLook)
		if err != nil { // one that is busy is no reason to say anything
			return pollAfter(askWithdrawn), nil
		}
		defer v.end()
		for _, pod := range pods[:min(len(pods), podsToAsk)] {
			if art.Status.Revocation = v.revocation(ctx, pod, art); art.Status.Revocation != nil {
				break
			}
		}
		if art.Status.Revocation == nil {
			return askWithdrawn, nil
		}
	}
	return 0, setWithdrawn(art, fmt.Sprintf("Block %d of the ledger withdraws the image, its proof was checked: mirrors refuse it", art.Status.Revocation.Height))
}

// setWithdrawn says that an Artifact's image is withdrawn, but not by it.
func setWithdrawn(art *v1alpha1.Artifact, message string) error {
	setDone(art, v1alpha1.ConditionRevoked, "Revoked", message)
	setFailed(art, v1alpha1.ConditionVerified, "Revoked", message)
	return reconcile.TerminalError(fmt.Errorf("%s is revoked", art.Spec.Image))
}

// revocation is the proven block that withdraws an Artifact's block, if the pod
// has one.
func (v *visit) revocation(ctx context.Context, pod corev1.Pod, art *v1alpha1.Artifact) *v1alpha1.Block {
	found, err := v.find(ctx, pod, art.Spec.Image, art.Spec.Digest)
	if err != nil || found.Revocation == nil || tooLarge(*found.Revocation) {
		return nil
	}
	b := found.Revocation
	if found.Withdrawal != nil {
		b = found.Withdrawal
	}
	verified, err := verifyRevocation(newestKey(v.node.Status.Ledger), art, *b)
	if err != nil {
		return nil // nobody can withdraw an image but who signs the ledger
	}
	return revocationBlock(*b, verified)
}
