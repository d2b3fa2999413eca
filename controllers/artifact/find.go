package artifact

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// podsToAsk is how many pods of a PyrsiaNode are asked for a block, one after
// the other: any of them may be behind, or lie.
const podsToAsk = 3

// find looks up the block of an Artifact that names a node and no publisher.
func (r *Reconciler) find(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionPublished
	if art.Status.Block != nil && status.IsTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	node, pods, err := r.Nodes.Usable(ctx, art.Namespace, art.Spec.NodeRef.Name, "node")
	if err != nil {
		return r.notAsked(art, condition, err)
	}
	v, err := r.Nodes.Visit(node, nodeclient.ToLook)
	if err != nil {
		return r.notAsked(art, condition, err)
	}
	defer v.End()
	absent := 0
	var silent error // of the last pod that was not to be asked
	for _, pod := range pods[:min(len(pods), podsToAsk)] {
		block, err := v.Proven(ctx, pod, art.Spec.Image, art.Spec.Digest)
		if err == nil {
			art.Status.Block = &v1alpha1.Block{Height: block.Height, Entry: block.Entry, Proof: block.Proof}
			status.SetDone(art, condition, "Published", publishedMessage(block))
			return 0, nil
		}
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonNotOnLedger {
			absent++
		}
		if nodeclient.IsUnusable(err) {
			silent = err
		}
	}
	if absent == 0 && silent != nil {
		return r.notAsked(art, condition, silent)
	}
	if absent == 0 {
		status.SetWaiting(art, condition, nodeclient.ReasonUnreachable, "no pod of the node that was asked gives a block which its ledger proves")
		return nodeclient.WaitForPublisher, nil
	}
	status.SetFailed(art, condition, string(control.ReasonNotOnLedger), fmt.Sprintf("the ledger of the node %q does not record the image with this digest", node.Name))
	failed := meta.FindStatusCondition(art.Status.Conditions, condition).LastTransitionTime
	return failureWait(age(r.Now(), failed)), nil
}

// checkName refuses an image's name that the ledger would write differently.
func checkName(art *v1alpha1.Artifact, condition string) error {
	if image, err := ledger.ParseImage(art.Spec.Image); err == nil && image.String() == art.Spec.Image {
		return nil
	}
	const message = "spec.image must be a full name with a tag and the registry's usual name, such as docker.io/library/alpine:3.20"
	status.SetFailed(art, condition, "InvalidImage", message)
	return reconcile.TerminalError(errors.New(message))
}
