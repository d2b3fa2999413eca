package controllers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// maxProof bounds a proof in bytes: a checkpoint of at most 96 KiB, and at
	// most 64 hashes.
	maxProof = 112 << 10
	// maxRetryAfter bounds how long a node can ask to be left alone.
	maxRetryAfter = time.Hour
	// waitUnreachable is about when a publisher that does not answer is asked again.
	waitUnreachable = 10 * time.Second
)

// publish asks the publisher to copy the image and record it, until the block
// is there.
func (r *ArtifactReconciler) publish(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionPublished
	if art.Status.Block != nil {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	publisher, node, err := r.Nodes.publisher(ctx, art.Namespace, art.Spec.PublisherRef.Name)
	if unusable, ok := errors.AsType[*unusableError](err); ok {
		setWaiting(art, condition, unusable.reason, unusable.message)
		if unusable.permanent {
			return 0, reconcile.TerminalError(err)
		}
		return waitForPublisher, nil
	}
	if err != nil {
		return 0, err
	}
	req := control.PublishRequest{
		Image: art.Spec.Image, Digest: art.Spec.Digest, Platforms: art.Spec.Platforms, Pinned: art.Spec.Pinned, Floor: publisher.Status.Ledger.Checkpoint,
	}
	resp, err := node.Publish(ctx, req)
	if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonTagPointsElsewhere && r.Saw(art) {
		req.Seen = true
		resp, err = node.Publish(ctx, req)
	}
	if err != nil {
		return r.refused(art, condition, err)
	}
	if resp.Block == nil {
		setWaiting(art, condition, "Publishing", "the publisher is copying the image")
		return pollAfter(age(r.Now(), art.CreationTimestamp)), nil
	}
	if b := resp.Block; b.Height < 0 || len(b.Entry) > ledger.MaxEntrySize || len(b.Proof) > maxProof {
		setFailed(art, condition, "InvalidBlock", "the publisher answered with an impossible block")
		return 0, fmt.Errorf("the publisher %s answered with an impossible block", publisher.Name)
	}
	art.Status.Block = &v1alpha1.Block{Height: resp.Block.Height, Entry: resp.Block.Entry, Proof: resp.Block.Proof}
	setDone(art, condition, "Published", publishedMessage(resp.Block))
	return 0, nil
}

// publishedMessage says where an image is, and what its block says of the tag if that
// did not point to the digest.
func publishedMessage(b *control.Block) string {
	message := fmt.Sprintf("The image is block %d of the ledger", b.Height)
	entry, err := ledger.ParseEntry([]byte(b.Entry))
	if err != nil || entry.Exception() == "" { // the step Verified tells of an error
		return message
	}
	return message + ", " + entry.Exception()
}

// refused decides what to do about a failed call: a refusal that would come
// again for ever is Stalled, any other is tried again.
func (r *ArtifactReconciler) refused(art *v1alpha1.Artifact, condition string, err error) (time.Duration, error) {
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok {
		// It restarts, perhaps: none of the Artifacts has failed by that. Not all
		// come at once then.
		setWaiting(art, condition, reasonUnreachable, "the publisher's control API does not answer")
		return waitUnreachable/2 + rand.N(waitUnreachable), nil
	}
	if refusal.Reason == control.ReasonUpstreamRateLimited || refusal.Reason == control.ReasonBusy {
		// Nothing is wrong: its turn comes. Not all come at once then.
		setWaiting(art, condition, conditionReason(refusal.Reason), refusal.Message)
		wait := max(retryAfter(refusal), time.Second)
		return wait + rand.N(wait/2), nil
	}
	setRefused(art, condition, conditionReason(refusal.Reason), refusal.Message)
	if refusal.Permanent() {
		return 0, reconcile.TerminalError(fmt.Errorf("publishing %s: %w", art.Spec.Image, refusal))
	}
	failed := meta.FindStatusCondition(*art.Conditions(), condition).LastTransitionTime
	return max(failureWait(age(r.Now(), failed)), retryAfter(refusal)), nil
}

// failureWait is when to try again what has failed for so long: the wait
// doubles, from two seconds to an hour.
func failureWait(since time.Duration) time.Duration {
	return min(max(since, retryFirst), time.Hour)
}

func retryAfter(refusal *control.Error) time.Duration {
	return min(time.Duration(min(refusal.RetryAfterSeconds, int(maxRetryAfter.Seconds())))*time.Second, maxRetryAfter)
}

// conditionReason is a node's reason, if it can stand in a condition.
func conditionReason(reason control.Reason) string {
	for _, c := range reason {
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return string(control.ReasonInternal)
		}
	}
	if reason == "" || len(reason) > 64 {
		return string(control.ReasonInternal)
	}
	return string(reason)
}
