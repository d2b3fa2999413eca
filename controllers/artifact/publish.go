package artifact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// tellQueuedAfter is how long an Artifact waits before its status says so.
const tellQueuedAfter = time.Minute

// publish asks the publisher to copy the image and record it, until the block
// is there.
func (r *Reconciler) publish(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionPublished
	if art.Status.Block != nil && status.IsTrue(art, condition) {
		return 0, nil
	}
	if err := checkName(art, condition); err != nil {
		return 0, err
	}
	var resp *control.PublishResponse
	err := r.Nodes.AskPublisher(ctx, art.Namespace, art.Spec.PublisherRef.Name, nodeclient.ToPublish, func(ctx context.Context, publisher *v1alpha1.PyrsiaNode, c *control.Client) (err error) {
		req := control.PublishRequest{
			Image: art.Spec.Image, Digest: art.Spec.Digest, Platforms: art.Spec.Platforms, Pinned: art.Spec.Pinned, Floor: publisher.Status.Ledger.Checkpoint,
		}
		resp, err = c.Publish(ctx, req)
		if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonTagPointsElsewhere && r.Saw(art) {
			req.Seen = true
			resp, err = c.Publish(ctx, req)
		}
		return err
	})
	if err != nil {
		return r.refused(art, condition, err)
	}
	switch b := resp.Block; {
	case b == nil && resp.Queued:
		status.SetWaiting(art, condition, v1alpha1.ReasonQueued, "the image waits in the publisher's queue until others are copied")
		return r.itsTurn(art, condition), nil
	case b == nil:
		status.SetWaiting(art, condition, v1alpha1.ReasonPublishing, "the publisher is copying the image")
		return pollAfter(age(r.Now(), art.CreationTimestamp)), nil
	case b.Height < 0 || nodeclient.TooLarge(*b):
		return 0, impossible(art, condition)
	}
	art.Status.Block = &v1alpha1.Block{Height: resp.Block.Height, Entry: resp.Block.Entry, Proof: resp.Block.Proof}
	status.SetDone(art, condition, v1alpha1.ReasonPublished, publishedMessage(resp.Block))
	return 0, nil
}

// impossible refuses a block that no ledger has.
func impossible(art *v1alpha1.Artifact, condition string) error {
	status.SetFailed(art, condition, v1alpha1.ReasonInvalidBlock, "the publisher answered with an impossible block")
	return fmt.Errorf("the publisher %s answered with an impossible block", art.Spec.PublisherRef.Name)
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
func (r *Reconciler) refused(art *v1alpha1.Artifact, condition string, err error) (time.Duration, error) {
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok {
		return r.notAsked(art, condition, err)
	}
	if refusal.Reason == control.ReasonUpstreamRateLimited || refusal.Reason == control.ReasonBusy {
		// Nothing is wrong: its turn will come. The retries are spread.
		status.SetWaiting(art, condition, nodeclient.ConditionReason(refusal.Reason), refusal.Message)
		wait := max(nodeclient.RetryAfter(refusal), time.Second)
		return wait + rand.N(wait/2), nil
	}
	status.SetRefused(art, condition, nodeclient.ConditionReason(refusal.Reason), refusal.Message)
	if refusal.Permanent() {
		return 0, reconcile.TerminalError(fmt.Errorf("publishing %s: %w", art.Spec.Image, refusal))
	}
	failed := meta.FindStatusCondition(*art.Conditions(), condition).LastTransitionTime
	return max(failureWait(age(r.Now(), failed)), nodeclient.RetryAfter(refusal)), nil
}

// NotAsked says why a node was not asked: no Artifact has failed by that.
func (r *Reconciler) notAsked(art *v1alpha1.Artifact, condition string, err error) (time.Duration, error) {
	wait, failed := nodeclient.NotAsked(art, condition, err)
	if nodeclient.IsBusy(err) {
		wait = r.itsTurn(art, condition)
	}
	return wait, failed
}

// itsTurn is when to retry what waits for others: the longer it has waited, the
// later, and spread.
func (r *Reconciler) itsTurn(art *v1alpha1.Artifact, condition string) time.Duration {
	waited := age(r.Now(), meta.FindStatusCondition(art.Status.Conditions, condition).LastTransitionTime)
	if condition == v1alpha1.ConditionPublished {
		waited = max(waited, age(r.Now(), art.CreationTimestamp))
	}
	wait := pollAfter(waited)
	return wait + rand.N(wait/2)
}

// onlyWaits tells whether all that is known of a new Artifact is that others are
// published before it. That is written once it has waited for a while: most wait
// for a moment, and an Artifact costs few writes.
func onlyWaits(art *v1alpha1.Artifact, now time.Time) bool {
	if len(art.Status.Conditions) != 1 || age(now, art.CreationTimestamp) >= tellQueuedAfter {
		return false
	}
	c := art.Status.Conditions[0]
	return c.Type == v1alpha1.ConditionPublished && (c.Reason == v1alpha1.ReasonQueued || c.Reason == v1alpha1.ReasonPublisherBusy)
}

// failureWait is when to try again what has failed for so long: the wait
// doubles, from two seconds to an hour.
func failureWait(since time.Duration) time.Duration {
	return min(max(since, nodeclient.RetryFirst), time.Hour)
}

// checkName refuses an image's name that the ledger would write differently.
func checkName(art *v1alpha1.Artifact, condition string) error {
	if image, err := ledger.ParseImage(art.Spec.Image); err == nil && image.String() == art.Spec.Image {
		return nil
	}
	const message = "spec.image must be a full name with a tag and the registry's usual name, such as docker.io/library/alpine:3.20"
	status.SetFailed(art, condition, v1alpha1.ReasonInvalidImage, message)
	return reconcile.TerminalError(errors.New(message))
}
