package steps

import (
	"context"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
)

const (
	// slowLink is what a second gets over the link of the slow mirror, in bytes.
	slowLink = 512 << 10
	// slowLimit is how much longer than by that the pull may take.
	slowLimit = 3 * time.Minute
)

// startSlowPull gives the newest worker a second mirror behind a slow link, and
// starts a pod there whose image is named at this mirror.
func startSlowPull(ctx context.Context, w *Env) error {
	node := w.workers[len(w.workers)-1]
	mirror := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "slow"}}
	mirror.Spec.Role = v1alpha1.RoleMirror
	mirror.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	mirror.Spec.Network = &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
	mirror.Spec.Bandwidth = &v1alpha1.Bandwidth{Download: resource.NewQuantity(slowLink, resource.BinarySI)}
	mirror.Spec.Mirror = &v1alpha1.Mirror{Containerd: v1alpha1.ContainerdUnmanaged, Port: 5002}
	if err := w.Client.Create(ctx, mirror); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "wait", "--for=condition=Ready", "pyrsianode/slow", "--timeout=120s"); err != nil {
		return err
	}
	return w.startPod(ctx, "slow", "127.0.0.1:5002/library/big:1", node, "sleep", "86400")
}

// pulledIn finds in the kubelet's event how long a pull took.
var pulledIn = regexp.MustCompile(` in ([0-9hms.]+) \(`)

// awaitSlowPull waits until that pod runs.
func awaitSlowPull(ctx context.Context, w *Env) error {
	byLink := time.Duration(upstream.BigLayer/slowLink) * time.Second
	var p corev1.Pod
	err := w.Await(ctx, "pod slow", byLink+slowLimit, func(ctx context.Context) (bool, string, error) {
		err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "slow"}, &p)
		return p.Status.Phase == corev1.PodRunning, fmt.Sprintf("%+v", p.Status.ContainerStatuses), err
	})
	if err != nil {
		return err
	}
	if err := w.checkImageID(ctx, "slow", "big:1"); err != nil {
		return err
	}
	message, err := w.awaitEventOf(ctx, p.Name, p.UID, "Successfully pulled image")
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The kubelet says: %s\nThe largest layer alone takes %s at %d KiB/s.\n", message, byLink, slowLink>>10)
	said := pulledIn.FindStringSubmatch(message)
	if said == nil {
		return fmt.Errorf("the event does not tell how long the pull took: %s", message)
	}
	// The burst that the limit lets through at first is a small part.
	if took, err := time.ParseDuration(said[1]); err != nil || took < byLink*3/4 {
		return fmt.Errorf("the link was not slow: the pull took %s (%v)", said[1], err)
	}
	return w.Show(ctx, "kubectl", "delete", "pod/slow", "pyrsianode/slow", "--timeout=60s")
}
