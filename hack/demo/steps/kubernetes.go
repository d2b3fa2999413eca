package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// Upgrades are the steps of `make test-upgrade-cluster`, on a cluster of an older
// release of Kubernetes: it is put to use, and upgraded to each of these releases.
// The empty one is that of hack/cluster/kube.
func Upgrades(releases ...string) []Step {
	all := []Step{cluster, images, registry, operator, samples, publication, canaries, pull}
	for i, release := range releases {
		name := release
		if name == "" {
			name = "the present release"
		}
		all = append(all, Step{"Kubernetes is upgraded to " + name,
			"no pull fails on the other nodes, what was declared and published is as it was, and the next image is published and pulled.",
			func(ctx context.Context, w *Env) error { return w.upgradeKubernetes(ctx, release, fmt.Sprint(i+2)) }})
	}
	return append(all, proof)
}

// upgradeKubernetes boots one node after the other with the programs of another
// release, and has an image with this tag published after that.
func (w *Env) upgradeKubernetes(ctx context.Context, release, tag string) error {
	before, err := w.published(ctx)
	if err != nil {
		return err
	}
	for _, node := range w.machines() {
		others := slices.DeleteFunc(slices.Clone(w.workers), func(n string) bool { return n == node })
		pulls := w.startPulls(ctx, others...)
		err := w.Show(ctx, "env", "KUBERNETES="+release, clusterScript, "upgrade", node)
		if err := errors.Join(err, pulls.end(w)); err != nil {
			return err
		}
		if slices.Contains(w.workers, node) {
			if err := w.awaitPull(ctx, node); err != nil {
				return err
			}
		}
	}
	// The programs of this release are in another folder.
	if err := errors.Join(w.readCluster(ctx), w.sameRelease(ctx)); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "wait", "--for=condition=Ready", "pn,ois,pa", "--all", "--timeout=180s"); err != nil {
		return err
	}
	if err := errors.Join(w.mirrorsEverywhere(ctx), w.awaitProof(ctx, pulledAgain, metav1.ConditionTrue, "")); err != nil {
		return err
	}
	after, err := w.published(ctx)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(before, after); diff != "" {
		return fmt.Errorf("what is published (-before +after):\n%s", diff)
	}
	fmt.Fprintf(w.Out, "The ledger's key and its %d blocks are what they were.\n", len(after)-1)
	if err := w.content.PushUnpublished(ctx, tag); err != nil {
		return err
	}
	return w.publishMore(ctx, "unpublished:"+tag)
}

// published are the blocks of all Artifacts, and the publisher's key.
func (w *Env) published(ctx context.Context) (map[string]string, error) {
	publisher := new(v1alpha1.PyrsiaNode)
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "publisher"}, publisher); err != nil {
		return nil, err
	}
	if publisher.Status.Ledger == nil {
		return nil, errors.New("the publisher has no ledger in its status")
	}
	out := map[string]string{"publisher": publisher.Status.Ledger.Key}
	var list v1alpha1.ArtifactList
	if err := w.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for _, a := range list.Items {
		if a.Status.Block == nil {
			return nil, fmt.Errorf("artifact %s has no block", a.Name)
		}
		out[a.Name] = fmt.Sprintf("%s, block %d: %s", a.Spec.Digest, a.Status.Block.Height, a.Status.Block.Hash)
	}
	return out, nil
}

// sameRelease checks that the API server and every kubelet are of kubectl's release.
func (w *Env) sameRelease(ctx context.Context) error {
	out, err := w.Output(ctx, "kubectl", "version", "-o", "json")
	if err != nil {
		return err
	}
	var version struct {
		Client program `json:"clientVersion"`
		Server program `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(out), &version); err != nil {
		return fmt.Errorf("reading the output of kubectl version: %w", err)
	}
	want := version.Client.GitVersion
	if version.Server.GitVersion != want {
		return fmt.Errorf("the API server is of %s, want %s", version.Server.GitVersion, want)
	}
	var nodes corev1.NodeList
	if err := w.Client.List(ctx, &nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if got := n.Status.NodeInfo.KubeletVersion; got != want {
			return fmt.Errorf("the kubelet of %s is of %s, want %s", n.Name, got, want)
		}
	}
	return w.Show(ctx, "kubectl", "get", "nodes")
}

type program struct {
	GitVersion string `json:"gitVersion"`
}
