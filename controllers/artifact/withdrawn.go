package artifact

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

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
		node, pods, err := r.source(ctx, art)
		if nodeclient.IsUnusable(err) {
			return again, nil
		}
		if err != nil {
			return 0, err
		}
		v, err := r.Nodes.Visit(node, nodeclient.ToLook)
		if err != nil { // one that is busy is no reason to say anything
			return pollAfter(again), nil
		}
		defer v.End()
		for _, pod := range pods[:min(len(pods), podsToAsk)] {
			if art.Status.Revocation = v.Revocation(ctx, pod, art); art.Status.Revocation != nil {
				break
			}
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
	status.SetDone(art, v1alpha1.ConditionRevoked, "Revoked", message)
	status.SetFailed(art, v1alpha1.ConditionVerified, "Revoked", message)
	return reconcile.TerminalError(fmt.Errorf("%s is revoked", art.Spec.Image))
}
