package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// podsToAsk is how many pods of a PyrsiaNode are asked for a block, one after
// the other: any of them may be behind, or lie.
const podsToAsk = 3

// find looks up the block of an Artifact that names a node and no publisher.
func (r *ArtifactReconciler) find(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionPublished
	if art.Status.Block != nil && isTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	node, pods, err := r.Nodes.usable(ctx, art.Namespace, art.Spec.NodeRef.Name, "node")
	if err != nil {
		return r.notAsked(art, condition, err)
	}
	v, err := r.Nodes.visit(node, toLook)
	if err != nil {
		return r.notAsked(art, condition, err)
	}
	defer v.end()
	absent := 0
	var silent error // of the last pod that was not to be asked
	for _, pod := range pods[:min(len(pods), podsToAsk)] {
		block, err := v.proven(ctx, pod, art.Spec.Image, art.Spec.Digest)
		if err == nil {
			art.Status.Block = &v1alpha1.Block{Height: block.Height, Entry: block.Entry, Proof: block.Proof}
			setDone(art, condition, "Published", publishedMessage(block))
			return 0, nil
		}
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonNotOnLedger {
			absent++
		}
		if isUnusable(err) {
			silent = err
		}
	}
	if absent == 0 && silent != nil {
		return r.notAsked(art, condition, silent)
	}
	if absent == 0 {
		setWaiting(art, condition, reasonUnreachable, "no pod of the node that was asked gives a block which its ledger proves")
		return waitForPublisher, nil
	}
	setFailed(art, condition, string(control.ReasonNotOnLedger), fmt.Sprintf("the ledger of the node %q does not record the image with this digest", node.Name))
	failed := meta.FindStatusCondition(art.Status.Conditions, condition).LastTransitionTime
	return failureWait(age(r.Now(), failed)), nil
}

// checkName refuses an image's name that the ledger would write differently.
func checkName(art *v1alpha1.Artifact, condition string) error {
	if image, err := ledger.ParseImage(art.Spec.Image); err == nil && image.String() == art.Spec.Image {
		return nil
	}
	const message = "spec.image must be a full name with a tag and the registry's usual name, such as docker.io/library/alpine:3.20"
	setFailed(art, condition, "InvalidImage", message)
	return reconcile.TerminalError(errors.New(message))
}

// unprovenError tells that a node's block does not verify.
type unprovenError struct{ err error }

func (e *unprovenError) Error() string { return e.err.Error() }

// find asks a pod for the block of an image.
func (v *visit) find(ctx context.Context, pod corev1.Pod, image, digest string) (resp *control.FindResponse, err error) {
	err = v.ask(ctx, pod, func(ctx context.Context, c *control.Client) (err error) {
		resp, err = c.Find(ctx, control.FindRequest{Image: image, Digest: digest})
		return err
	})
	return resp, err
}

// proven asks a pod for the block of an image, and checks it against the ledger's key.
func (v *visit) proven(ctx context.Context, pod corev1.Pod, image, digest string) (*control.Block, error) {
	resp, err := v.find(ctx, pod, image, digest)
	if err != nil {
		return nil, err
	}
	if _, err := verifyBlock(newestKey(v.node.Status.Ledger), resp.Block, image, digest); err != nil {
		return nil, &unprovenError{fmt.Errorf("block of %s: %w", image, err)}
	}
	return &resp.Block, nil
}
