package artifact

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// podsToAsk is how many pods of a PyrsiaNode are asked for a block, one after
// the other: any of them may be behind, or lie.
const podsToAsk = 3

// lookUp asks some pods of the PyrsiaNode whose ledger an Artifact is on, until ask has
// what it wants.
func (r *Reconciler) lookUp(ctx context.Context, art *v1alpha1.Artifact, ask func(v *nodeclient.Visit, pod corev1.Pod) (done bool)) error {
	node, pods, err := r.source(ctx, art)
	if err != nil {
		return err
	}
	v, err := r.Nodes.Visit(node, nodeclient.ToLook)
	if err != nil {
		return err
	}
	defer v.End()
	for _, pod := range pods[:min(len(pods), podsToAsk)] {
		if ask(v, pod) {
			break
		}
	}
	return nil
}

// find looks up the block of an Artifact that names a node and no publisher.
func (r *Reconciler) find(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionPublished
	if art.Status.Block != nil && status.IsTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	absent := 0
	var found *control.Block
	var silent error // of the last pod that was not to be asked
	err := r.lookUp(ctx, art, func(v *nodeclient.Visit, pod corev1.Pod) (done bool) {
		block, err := v.Proven(ctx, pod, art.Spec.Image, art.Spec.Digest)
		if err == nil {
			found = block
		}
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonNotOnLedger {
			absent++
		}
		if nodeclient.IsUnusable(err) {
			silent = err
		}
		return found != nil
	})
	if err != nil {
		return r.notAsked(art, condition, err)
	}
	if found != nil {
		art.Status.Block = &v1alpha1.Block{Height: found.Height, Entry: found.Entry, Proof: found.Proof}
		status.SetDone(art, condition, v1alpha1.ReasonPublished, publishedMessage(found))
		return 0, nil
	}
	if absent == 0 && silent != nil {
		return r.notAsked(art, condition, silent)
	}
	if absent == 0 {
		status.SetWaiting(art, condition, v1alpha1.ReasonNodeUnreachable, "no pod of the node that was asked gives a block which its ledger proves")
		return nodeclient.WaitForPublisher, nil
	}
	status.SetFailed(art, condition, v1alpha1.ReasonNotOnLedger, fmt.Sprintf("the ledger of the node %q does not record the image with this digest", art.Spec.NodeRef.Name))
	failed := meta.FindStatusCondition(art.Status.Conditions, condition).LastTransitionTime
	return failureWait(age(r.Now(), failed)), nil
}

// askWithdrawn is how often a node is asked whether its ledger has withdrawn an
// image that was looked up, and askPublished how often a publisher is, about one that
// it published: there the Artifact that withdraws it tells, unless it is gone.
const (
	askWithdrawn = 10 * time.Minute
	askPublished = time.Hour
)

// withdrawn looks whether the ledger has withdrawn the image of an Artifact: then it
// is verified no more. One pod with a proof is enough.
func (r *Reconciler) withdrawn(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	if art.Status.Revocation == nil {
		if !status.IsTrue(art, v1alpha1.ConditionVerified) {
			return 0, nil
		}
		again := askWithdrawn
		if art.Spec.NodeRef.Name == "" {
			var its bool
			if again, its = itsTurnToLook(art, r.Now()); !its {
				return again, nil
			}
		}
		err := r.lookUp(ctx, art, func(v *nodeclient.Visit, pod corev1.Pod) (done bool) {
			art.Status.Revocation = v.Revocation(ctx, pod, art)
			return art.Status.Revocation != nil
		})
		switch { // a node that cannot be asked leaves the condition as it is
		case nodeclient.IsBusy(err):
			return pollAfter(again), nil
		case nodeclient.IsUnusable(err):
			return again, nil
		case err != nil:
			return 0, err
		}
		if art.Status.Revocation == nil {
			return again, nil
		}
	}
	checked := ", its proof was checked"
	if art.Status.Revocation.Proof == "" {
		checked = "" // another Artifact had it
	}
	return 0, setWithdrawn(art, fmt.Sprintf("Block %d of the ledger withdraws the image%s: mirrors refuse it", art.Status.Revocation.Height, checked))
}

// itsTurnToLook tells whether it is an Artifact's turn, and when it is next. Each has
// a time of its own in askPublished, so that not all are looked at together, nor all
// when the operator starts; what is late by an eighth waits for the next time.
func itsTurnToLook(art *v1alpha1.Artifact, now time.Time) (next time.Duration, its bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(art.UID)) // it never fails
	own := time.Duration(h.Sum32()) * time.Second % askPublished
	late := (time.Duration(now.UnixNano()) - own) % askPublished
	return askPublished - late, late < askPublished/8
}

// setWithdrawn says that an Artifact's image is withdrawn, but not by it.
func setWithdrawn(art *v1alpha1.Artifact, message string) error {
	status.SetDone(art, v1alpha1.ConditionRevoked, v1alpha1.ReasonRevoked, message)
	status.SetFailed(art, v1alpha1.ConditionVerified, v1alpha1.ReasonRevoked, message)
	return reconcile.TerminalError(fmt.Errorf("%s is revoked", art.Spec.Image))
}
