package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refuseUnpublished asks for an image that exists upstream, but not on the
// ledger.
func refuseUnpublished(ctx context.Context, w *Env) error {
	image := "unpublished:1"
	if w.Upstream == DockerHub {
		image = "hello-world:latest"
	}
	if err := w.startPod(ctx, "unpublished", image, "w1"); err != nil {
		return err
	}
	message, err := w.awaitEvent(ctx, "unpublished", "Failed to pull image", image)
	if err != nil {
		return err
	}
	if err := w.awaitPullFailure(ctx, "unpublished"); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "get", "pod", "unpublished"); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The kubelet says: %s\n", message)
	_, tag, _ := strings.Cut(image, ":")
	answer, err := w.OnNode(ctx, "w1", "curl", "-s", libraryURL(image)+"/manifests/"+tag)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The mirror says: %s\n", strings.TrimSpace(answer))
	if !strings.Contains(answer, "MANIFEST_UNKNOWN") {
		return fmt.Errorf("the mirror's answer is not MANIFEST_UNKNOWN: %s", answer)
	}
	return w.Show(ctx, "kubectl", "delete", "pod", "unpublished", "--now")
}

// awaitPullFailure waits until `kubectl get pod` shows that the pull failed.
func (w *Env) awaitPullFailure(ctx context.Context, pod string) error {
	return w.Await(ctx, "pod "+pod, time.Minute, func(ctx context.Context) (bool, string, error) {
		var p corev1.Pod
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: pod}, &p); err != nil {
			return false, "", err
		}
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return false, "its container does not wait", nil
		}
		reason := p.Status.ContainerStatuses[0].State.Waiting.Reason
		return reason == "ErrImagePull" || reason == "ImagePullBackOff", reason, nil
	})
}

// refuseMoved pulls the tag that was moved upstream after publication.
func refuseMoved(ctx context.Context, w *Env) error {
	const image = "moving:1"
	if err := w.startPod(ctx, "moving", image, "w2"); err != nil {
		return err
	}
	said, err := w.awaitEnd(ctx, "moving")
	if err != nil {
		return err
	}
	if strings.TrimSpace(said) != "published content" {
		return errors.New("the pod runs what the tag was moved to")
	}
	return w.checkImageID(ctx, "moving", image)
}
