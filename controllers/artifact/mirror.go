package artifact

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// mirror waits until the mirrors of the publisher have the block. Once True it
// stays so: a mirror that joins later catches up by itself.
func (r *Reconciler) mirror(ctx context.Context, art *v1alpha1.Artifact) (time.Duration, error) {
	const condition = v1alpha1.ConditionMirrored
	if !status.IsTrue(art, v1alpha1.ConditionVerified) || status.IsTrue(art, condition) {
		return 0, nil
	}
	mirrors := new(v1alpha1.PyrsiaNodeList)
	err := r.Client.List(ctx, mirrors, client.InNamespace(art.Namespace), client.MatchingFields{objects.IndexPublisher: art.Spec.PublisherRef.Name})
	if err != nil {
		return 0, fmt.Errorf("listing the mirrors of %s: %w", art.Spec.PublisherRef.Name, err)
	}
	count, behind := 0, []string{}
	for i := range mirrors.Items {
		m := &mirrors.Items[i]
		if !awaited(m) {
			continue
		}
		count++
		if objects.LedgerSize(m) <= art.Status.Block.Height || !status.IsTrue(m, v1alpha1.ConditionNetworkReady) { // it may have another ledger
			behind = append(behind, m.Name)
		}
	}
	switch {
	case count == 0:
		status.SetDone(art, condition, v1alpha1.ReasonNoMirrors, "No mirror in this namespace refers to the publisher")
	case len(behind) > 0:
		slices.Sort(behind)
		status.SetWaiting(art, condition, v1alpha1.ReasonMirrorsBehind, fmt.Sprintf("waiting for the mirrors to get block %d: %s", art.Status.Block.Height, strings.Join(behind, ", ")))
		// A mirror that grows wakes those that wait for it, as the cache shows
		// them: not one whose wait is being written at that moment.
		return min(max(age(r.Now(), art.CreationTimestamp), time.Second), nodeclient.WaitForPublisher), nil
	default:
		status.SetDone(art, condition, v1alpha1.ReasonMirrored, "All mirrors have the block")
	}
	return 0, nil
}

// awaited tells whether Artifacts wait for a mirror: not if it goes away, nor
// if no Kubernetes node runs it.
func awaited(m *v1alpha1.PyrsiaNode) bool {
	return m.DeletionTimestamp.IsZero() && m.Spec.Role == v1alpha1.RoleMirror &&
		(m.Status.Nodes == nil || m.Status.Nodes.Desired > 0)
}
