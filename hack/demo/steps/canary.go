package steps

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// noticed is how long it may take until the loss of a proof is told, or mended.
const noticed = 2 * time.Minute

// showCanaries shows that containerd on each machine has pulled what it can get
// from its mirror alone.
func showCanaries(ctx context.Context, w *World) error {
	if err := w.Show(ctx, "kubectl", "get", "pods", "-l", "app.kubernetes.io/component=mirror", "-o",
		`custom-columns=NODE:.spec.nodeName,IMAGE:.spec.containers[?(@.name=="canary")].image,PULLED:.status.containerStatuses[?(@.name=="canary")].ready`); err != nil {
		return err
	}
	return w.awaitProof(ctx, metav1.ConditionTrue, "")
}

// awaitProof waits until the mirror says whether containerd uses it, and where not.
func (w *World) awaitProof(ctx context.Context, status metav1.ConditionStatus, says string) error {
	mirror := new(v1alpha1.PyrsiaNode)
	var c *metav1.Condition
	err := w.Await(ctx, "containerd's proof", noticed, func(ctx context.Context) (bool, string, error) {
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "mirror"}, mirror); err != nil {
			return false, "", err
		}
		c = meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdUsesMirror)
		counts := mirror.Status.Nodes
		if c == nil || counts == nil {
			return false, "no condition yet", nil
		}
		// A containerd that goes elsewhere is no fault of the mirrors.
		if !meta.IsStatusConditionTrue(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady) {
			return false, "the workload is not ready", nil
		}
		enough := status != metav1.ConditionTrue || counts.Proven == counts.Desired && counts.Proven >= int32(len(w.workers))
		return enough && c.Status == status && strings.Contains(c.Message, says), fmt.Sprintf("%+v, %s: %s", counts, c.Status, c.Message), nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "%s=%s: %s\n", c.Type, c.Status, c.Message)
	return nil
}
