package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	if art.Status.Block != nil {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	node, pods, err := r.Nodes.usable(ctx, art.Namespace, art.Spec.NodeRef.Name, "node")
	if unusable, ok := errors.AsType[*unusableError](err); ok {
		setWaiting(art, condition, unusable.reason, unusable.message)
		return waitForPublisher, nil
	}
	if err != nil {
		return 0, err
	}
	key, absent := newestKey(node.Status.Ledger), 0
	for _, pod := range pods[:min(len(pods), podsToAsk)] {
		c, err := r.Nodes.client(node, pod.Status.PodIP)
		if err != nil {
			return 0, err
		}
		block, err := proven(ctx, c, key, art.Spec.Image, art.Spec.Digest)
		if err == nil {
			art.Status.Block = &v1alpha1.Block{Height: block.Height, Entry: block.Entry, Proof: block.Proof}
			setDone(art, condition, "Published", publishedMessage(block))
			return 0, nil
		}
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonNotOnLedger {
			absent++
		}
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

// proven asks a node for the block of an image, and checks it against a key.
func proven(ctx context.Context, c *control.Client, key, image, digest string) (*control.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	resp, err := c.Find(ctx, control.FindRequest{Image: image, Digest: digest})
	if err != nil {
		return nil, err
	}
	if _, err := verifyBlock(key, resp.Block, image, digest); err != nil {
		return nil, &unprovenError{fmt.Errorf("block of %s: %w", image, err)}
	}
	return &resp.Block, nil
}
