package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// outage is how long the API server is away: longer than the operator's lease.
const outage = 60 * time.Second

// loseAPIServer cuts the control plane's power, and publishes when it is back.
func loseAPIServer(ctx context.Context, w *Env) error {
	pulls := w.startPulls(ctx, w.workers...)
	err := w.Show(ctx, clusterScript, "kill", "cp")
	if err == nil {
		fmt.Fprintf(w.Out, "Waiting for %s.\n", outage)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(outage):
			err = w.Show(ctx, clusterScript, "start", "cp")
		}
	}
	if err := errors.Join(err, pulls.end(w)); err != nil {
		return err
	}
	return w.publishMore(ctx, "unpublished:1")
}

// publishMore has an image published that was not, and runs it.
func (w *Env) publishMore(ctx context.Context, image string) error {
	repository, tag, _ := strings.Cut(image, ":")
	set := &v1alpha1.OfficialImageSet{}
	set.Name, set.Namespace = "more-"+tag, namespace
	set.Spec.PublisherRef.Name = "publisher"
	set.Spec.Images = []v1alpha1.ImageTags{{Repository: repository, Tags: []string{tag}}}
	if err := w.Client.Create(ctx, set); err != nil {
		return err
	}
	err := w.Await(ctx, "OfficialImageSet "+set.Name, 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		if err := w.Client.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil {
			return false, "", err
		}
		return meta.IsStatusConditionTrue(set.Status.Conditions, v1alpha1.ConditionReady), fmt.Sprintf("%+v", set.Status.Conditions), nil
	})
	if err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "delete", "pod", "more", "--ignore-not-found", "--now"); err != nil {
		return err
	}
	if err := w.startPod(ctx, "more", image, "w2"); err != nil {
		return err
	}
	if _, err := w.awaitEnd(ctx, "more"); err != nil {
		return err
	}
	return w.checkImageID(ctx, "more", image)
}

// cutPower kills all processes of w2 and boots it again.
func cutPower(ctx context.Context, w *Env) error {
	pulls := w.startPulls(ctx, "w1")
	err := w.Show(ctx, clusterScript, "kill", "w2")
	if err == nil {
		err = w.Show(ctx, clusterScript, "start", "w2")
	}
	if err := errors.Join(err, pulls.end(w)); err != nil {
		return err
	}
	return w.awaitPull(ctx, "w2")
}

// awaitPull waits until a node pulls from its mirror.
func (w *Env) awaitPull(ctx context.Context, node string) error {
	err := w.Await(ctx, "a pull on "+node, 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		if _, err := w.OnNode(ctx, node, "grep", "-q", "127.0.0.1:5001", dockerHosts); err != nil {
			return false, "containerd is not set up", nil
		}
		out, err := w.OnNode(ctx, node, "sh", "-c", pullScript)
		return err == nil, out, err
	})
	if err == nil {
		fmt.Fprintf(w.Out, "%s pulls from its own mirror.\n", node)
	}
	return err
}
