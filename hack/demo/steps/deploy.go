package steps

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

const (
	// namespace is where the samples and the demo's pods are.
	namespace = "default"
	// mirrorURL is where a worker reaches its own mirror.
	mirrorURL = "http://127.0.0.1:5001"
	// mirrorDir is where a mirror keeps its data on a worker.
	mirrorDir = "/var/lib/pyrsia/default_mirror"
)

// deployOperator installs the operator as `make deploy` does on any cluster.
func deployOperator(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, "make", "--no-print-directory", "deploy"); err != nil {
		return err
	}
	return w.Show(ctx, "kubectl", "-n", "pyrsia-system", "get", "deployments")
}

// applySamples declares a publisher, mirrors and images. Unless they come from
// Docker Hub, the publisher's upstream is on this machine.
func applySamples(ctx context.Context, w *Env) error {
	// Mirrors reach the machines: an administrator says in which namespaces.
	if err := w.Show(ctx, "kubectl", "label", "--overwrite", "namespace", namespace, "pyrsia.io/mirrors=allowed"); err != nil {
		return err
	}
	if w.Upstream == DockerHub {
		return w.Show(ctx, "kubectl", "apply", "-k", "config/samples")
	}
	return w.Show(ctx, "sh", "-c",
		"kubectl kustomize hack/demo/samples | sed s,CLUSTER_HOST_IP:5000,"+w.RegistryAddr()+", | kubectl apply -f -")
}

// awaitPublished waits until everything that was declared is so.
func awaitPublished(ctx context.Context, w *Env) error {
	for _, argv := range [][]string{
		{"kubectl", "wait", "--for=condition=Ready", "pn,ois", "--all", "--timeout=180s"},
		{"kubectl", "wait", "--for=condition=Ready", "pa", "--all", "--timeout=60s"},
		{"kubectl", "get", "pn,ois,pa"},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			return err
		}
	}
	for image, digest := range w.pushed {
		a, err := w.artifact(ctx, image)
		if err != nil {
			return err
		}
		if a.Spec.Digest != digest.String() {
			return fmt.Errorf("%s is on the ledger with %s, but was pushed with %s", image, a.Spec.Digest, digest)
		}
	}
	return nil
}

// artifact finds the Artifact of an official image ("busybox:1.35").
func (w *Env) artifact(ctx context.Context, image string) (*v1alpha1.Artifact, error) {
	var list v1alpha1.ArtifactList
	if err := w.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for i, a := range list.Items {
		if a.Spec.Image == "docker.io/library/"+image && a.Status.Block != nil {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no Artifact of %s is on the ledger", image)
}

// OnNode runs a command on a node of the cluster, silently.
func (w *Env) OnNode(ctx context.Context, node string, argv ...string) (string, error) {
	return w.Output(ctx, append([]string{clusterScript, "exec", node}, argv...)...)
}
