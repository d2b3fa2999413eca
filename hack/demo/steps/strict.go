package steps

import (
	"context"
	"fmt"
	"strings"
)

// pullFromAnother starts a pod of the demo's own registry by its address: a
// registry that is none of the mirrored ones.
func pullFromAnother(ctx context.Context, w *Env) error {
	if err := w.serveUpstream(ctx); err != nil {
		return err
	}
	if err := w.startPod(ctx, "other-registry", w.RegistryAddr()+"/library/unpublished:1", "w1"); err != nil {
		return err
	}
	said, err := w.awaitEnd(ctx, "other-registry")
	if err != nil {
		return err
	}
	if !strings.Contains(said, "content that nobody asked for") {
		return fmt.Errorf("the pod says %q", said)
	}
	return nil
}

// staticPodsOnStrict gives w1's kubelet two manifests, which no API server had
// to admit.
func staticPodsOnStrict(ctx context.Context, w *Env) error {
	for name, image := range map[string]string{"static-published": w.small(), "static-refused": "unpublished:1"} {
		manifest := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": %q}, "spec": {
			"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "docker.io/library/%s", "command": ["sleep", "86400"]}]}}`, name, namespace, image)
		if _, err := w.OnNode(ctx, "w1", "sh", "-c", `echo "$1" >/etc/kubernetes/manifests/$0.json`, name, manifest); err != nil {
			return err
		}
	}
	// The kubelet shows each of them as NAME-NODE.
	if err := w.awaitPod(ctx, "static-published-w1"); err != nil {
		return err
	}
	if err := w.checkImageID(ctx, "static-published-w1", w.small()); err != nil {
		return err
	}
	message, err := w.awaitEvent(ctx, "static-refused-w1", "Failed to pull image", "unpublished:1")
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The kubelet says: %s\n", message)
	if err := w.awaitPullFailure(ctx, "static-refused-w1"); err != nil {
		return err
	}
	_, err = w.OnNode(ctx, "w1", "sh", "-c", "rm /etc/kubernetes/manifests/static-*.json")
	return err
}
