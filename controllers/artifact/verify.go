package artifact

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// verify checks the block itself: it is on the ledger whose key is pinned, and
// it is about this image and digest. What the publisher says is not believed.
func (r *Reconciler) verify(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionVerified
	if !status.IsTrue(art, v1alpha1.ConditionPublished) || status.IsTrue(art, condition) || art.Status.Revocation != nil {
		return 0, nil
	}
	node, _, err := r.source(ctx, art)
	if err != nil {
		wait, err := nodeclient.NotAsked(art, condition, err)
		return min(wait, pollAfter(age(r.Now(), art.CreationTimestamp))), err
	}
	got := art.Status.Block
	block, err := nodeclient.VerifyBlock(nodeclient.NewestKey(node.Status.Ledger), control.Block{Height: got.Height, Entry: got.Entry, Proof: got.Proof}, art.Spec.Image, art.Spec.Digest)
	if err != nil {
		art.Status.Block = nil // ask for it again
		status.SetRefused(art, condition, v1alpha1.ReasonProofInvalid, "the block does not verify: "+err.Error())
		return 0, fmt.Errorf("verifying %s: %w", art.Spec.Image, err)
	}
	art.Status.Block.Hash = hex.EncodeToString(block.Hash[:])
	art.Status.Block.Checkpoint = string(block.Checkpoint.Signed)
	art.Status.PublishedAt = new(metav1.NewTime(block.Artifact.Time))
	art.Status.Platforms = platforms(block.Artifact)
	art.Status.Bytes = block.Artifact.Size
	for _, p := range block.Artifact.Platforms {
		art.Status.Bytes += p.Size
	}
	status.SetDone(art, condition, v1alpha1.ReasonProofVerified, "The inclusion proof of the block was checked against the publisher's pinned key")
	return 0, nil
}

// source is the PyrsiaNode whose ledger an Artifact is on, with its pods.
func (r *Reconciler) source(ctx context.Context, art *v1alpha1.Artifact) (*v1alpha1.PyrsiaNode, []corev1.Pod, error) {
	if art.Spec.NodeRef.Name != "" {
		return r.Nodes.Usable(ctx, art.Namespace, art.Spec.NodeRef.Name, "node")
	}
	return r.Nodes.Usable(ctx, art.Namespace, art.Spec.PublisherRef.Name, "publisher")
}

// platforms are the names of the platforms, bounded as the API wants them.
func platforms(entry *ledger.AddArtifact) []string {
	var out []string
	for _, p := range entry.Images() {
		out = append(out, status.Bounded(p.Platform, 256))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
