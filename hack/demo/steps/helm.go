package steps

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

const (
	// secondTag is the version that everything is upgraded to.
	secondTag = "v0.1.1"
	leftLimit = 2 * time.Minute
)

// helm is a call of the Helm that hack/tools.mod pins.
func helm(args ...string) []string {
	return append([]string{"go", "tool", "-modfile=hack/tools.mod", "helm"}, args...)
}

// installByHelm installs the chart and applies the samples again, with a
// volume for the publisher that can go to another machine.
func installByHelm(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, helm("install", "pyrsia-operator", "charts/pyrsia-operator", "--namespace", "pyrsia-system", "--create-namespace", "--wait")...); err != nil {
		return err
	}
	if err := w.Show(ctx, "sh", "-c", "kubectl kustomize hack/demo/samples | sed -e s,CLUSTER_HOST_IP:5000,"+w.RegistryAddr()+
		", -e 's/^  storage:$/&\\n    storageClassName: shared/' | kubectl apply -f -"); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "wait", "--for=condition=Ready", "pn,ois", "--all", "--timeout=180s"); err != nil {
		return err
	}
	return w.mirrorsEverywhere(ctx)
}

// mirrorsEverywhere checks that every machine has a mirror that is ready.
func (w *Env) mirrorsEverywhere(ctx context.Context) error {
	want := fmt.Sprintf("%d of %[1]d are ready, %[1]d of %[1]d Kubernetes nodes covered", len(w.machines()))
	return w.Await(ctx, "mirrors on every Kubernetes node", 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		mirror := new(v1alpha1.PyrsiaNode)
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "mirror"}, mirror); err != nil {
			return false, "", err
		}
		if mirror.Status.Nodes == nil {
			return false, "no pods yet", nil
		}
		n := mirror.Status.Nodes
		got := fmt.Sprintf("%d of %d are ready, %d of %d Kubernetes nodes covered", n.Ready, n.Desired, n.Covered, n.Total)
		return got == want, got, nil
	})
}

// movePublisher has the publisher's pod go where it was not.
func movePublisher(ctx context.Context, w *Env) error {
	before := new(v1alpha1.PyrsiaNode)
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "publisher"}, before); err != nil {
		return err
	}
	pod := new(corev1.Pod)
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "publisher-0"}, pod); err != nil {
		return err
	}
	node := pod.Spec.NodeName
	for _, argv := range [][]string{
		{"kubectl", "cordon", node},
		{"kubectl", "delete", "pod", "publisher-0", "--wait"},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			return err
		}
	}
	err := errors.Join(w.awaitPod(ctx, "publisher-0"), w.Show(ctx, "kubectl", "uncordon", node))
	if err != nil {
		return err
	}
	if err := w.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The publisher was on %s and is on %s.\n", node, pod.Spec.NodeName)
	if pod.Spec.NodeName == node {
		return errors.New("the publisher did not move")
	}
	if err := w.publishMore(ctx, "unpublished:1"); err != nil {
		return err
	}
	after := new(v1alpha1.PyrsiaNode)
	err = w.Await(ctx, "the ledger to grow", time.Minute, func(ctx context.Context) (bool, string, error) {
		err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "publisher"}, after)
		return err == nil && after.Status.Ledger.Size > before.Status.Ledger.Size, fmt.Sprintf("%+v", after.Status.Ledger), err
	})
	if err == nil && after.Status.Ledger.Key != before.Status.Ledger.Key {
		err = errors.New("the publisher has another key")
	}
	return err
}

// upgradeAll gives every pod of the project another image while every worker
// pulls.
func upgradeAll(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, "make", "--no-print-directory", "images", "PLATFORMS=linux/"+runtime.GOARCH, "IMAGE_TAG="+secondTag, "DIST=tmp/demo/second"); err != nil {
		return err
	}
	if err := w.load(ctx, "tmp/demo/second"); err != nil {
		return err
	}
	pulls := w.startPulls(ctx, w.workers...)
	err := w.Show(ctx, helm("upgrade", "pyrsia-operator", "charts/pyrsia-operator", "--namespace", "pyrsia-system", "--wait",
		"--set", "image.tag="+secondTag, "--set", "nodeImage.tag="+secondTag)...)
	if err == nil {
		err = w.awaitUpgraded(ctx)
	}
	return errors.Join(err, pulls.end(w))
}

// awaitUpgraded waits until no pod of the project has the first image, and all
// are ready.
func (w *Env) awaitUpgraded(ctx context.Context) error {
	return w.Await(ctx, "all pods to be replaced", 4*time.Minute, func(ctx context.Context) (bool, string, error) {
		var pods corev1.PodList
		if err := w.Client.List(ctx, &pods); err != nil {
			return false, "", err
		}
		fresh := 0
		for _, p := range pods.Items {
			for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
				if !strings.HasPrefix(c.Image, "ghcr.io/pyrsia/") {
					continue
				}
				if !strings.HasSuffix(c.Image, ":"+secondTag) && p.DeletionTimestamp == nil {
					return false, p.Name + " is still " + c.Image, nil
				}
				fresh++
			}
		}
		return w.rolledOut(ctx, fresh)
	})
}

func (w *Env) rolledOut(ctx context.Context, fresh int) (bool, string, error) {
	var sets appsv1.DaemonSetList
	if err := w.Client.List(ctx, &sets, client.InNamespace(namespace)); err != nil {
		return false, "", err
	}
	for _, s := range sets.Items {
		if s.Status.ObservedGeneration != s.Generation || s.Status.UpdatedNumberScheduled != s.Status.DesiredNumberScheduled || s.Status.NumberReady != s.Status.DesiredNumberScheduled {
			return false, fmt.Sprintf("%s: %d of %d", s.Name, s.Status.UpdatedNumberScheduled, s.Status.DesiredNumberScheduled), nil
		}
	}
	return fresh > 0 && len(sets.Items) > 0, "nothing runs", nil
}
