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

const (
	// noticed is how long it may take until the loss of a proof is reported, or
	// repaired.
	noticed = 2 * time.Minute
	// pulledAgain is how long the kubelet may wait before it tries a pull again.
	pulledAgain = 6 * time.Minute
)

// showCanaries shows that containerd on each machine has pulled what it can get
// from its mirror alone.
func showCanaries(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, "kubectl", "get", "pods", "-l", "app.kubernetes.io/component=mirror", "-o",
		`custom-columns=NODE:.spec.nodeName,IMAGE:.spec.containers[?(@.name=="canary")].image,PULLED:.status.containerStatuses[?(@.name=="canary")].ready`); err != nil {
		return err
	}
	return w.awaitProof(ctx, noticed, metav1.ConditionTrue, "")
}

// awaitProof waits until the mirror says whether containerd uses it, on every machine,
// and where not.
func (w *Env) awaitProof(ctx context.Context, limit time.Duration, status metav1.ConditionStatus, says string) error {
	mirror := new(v1alpha1.PyrsiaNode)
	var c *metav1.Condition
	err := w.Await(ctx, "containerd's proof", limit, func(ctx context.Context) (bool, string, error) {
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "mirror"}, mirror); err != nil {
			return false, "", err
		}
		c = meta.FindStatusCondition(mirror.Status.Conditions, v1alpha1.ConditionContainerdUsesMirror)
		counts := mirror.Status.Nodes
		if c == nil || counts == nil {
			return false, "no condition yet", nil
		}
		// A containerd that asks elsewhere is not the mirrors' fault.
		if !meta.IsStatusConditionTrue(mirror.Status.Conditions, v1alpha1.ConditionWorkloadReady) {
			return false, "the workload is not ready", nil
		}
		enough := status != metav1.ConditionTrue || counts.Proven == counts.Total && counts.Proven == int32(len(w.machines()))
		return enough && c.Status == status && strings.Contains(c.Message, says), fmt.Sprintf("%+v, %s: %s", counts, c.Status, c.Message), nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "%s=%s: %s\n", c.Type, c.Status, c.Message)
	return nil
}

// loseProof starts w1's containerd with a configuration in which it reads another
// folder, and then with its own again.
func loseProof(ctx context.Context, w *Env) error {
	const list = `s|config_path = "` + certsD + `"|config_path = "` + certsD + `:/etc/docker/certs.d"|`
	if err := w.restartContainerd(ctx, "w1", "cp $0 /run/config.toml.before && sed -i '"+list+"' $0"); err != nil {
		return err
	}
	if err := w.awaitProof(ctx, noticed, metav1.ConditionFalse, "On w1"); err != nil {
		return err
	}
	if err := w.restartContainerd(ctx, "w1", "cp /run/config.toml.before $0"); err != nil {
		return err
	}
	return w.awaitProof(ctx, pulledAgain, metav1.ConditionTrue, "")
}

// restartContainerd changes a node's configuration of containerd and starts it again.
func (w *Env) restartContainerd(ctx context.Context, node, change string) error {
	_, err := w.OnNode(ctx, node, "sh", "-ec", change+`
pid=$(pidof containerd)
kill $pid
while kill -0 $pid 2>/dev/null; do sleep 0.1; done
setsid containerd >>/tmp/containerd.log 2>&1 </dev/null &
until ctr version >/dev/null 2>&1; do sleep 0.1; done`, "/etc/containerd/config.toml")
	return err
}

// wipeSettings removes on w2 what the mirror has set up, as upgrades of containerd
// and tools that manage a machine's files do: a registry's folder, and all of them.
func wipeSettings(ctx context.Context, w *Env) error {
	const aside, gone = certsD + ".aside", certsD + ".gone"
	before, err := w.OnNode(ctx, "w2", "cat", dockerHosts)
	if err != nil {
		return err
	}
	for _, wipe := range []string{
		// Without pauses: the keeper may be restoring them.
		"mkdir " + gone + " && mv " + certsD + "/docker.io " + gone + "/1",
		"mv " + certsD + " " + aside + " && mkdir " + certsD,
		"mv " + certsD + " " + gone + "/2 && mv " + aside + " " + certsD + " && mv " + certsD + "/docker.io " + gone + "/3",
	} {
		fmt.Fprintf(w.Out, "w2$ %s\n", wipe)
		if _, err := w.OnNode(ctx, "w2", "sh", "-c", wipe); err != nil {
			return err
		}
		start := time.Now()
		err := w.Await(ctx, "containerd's set-up", noticed, func(ctx context.Context) (bool, string, error) {
			now, err := w.OnNode(ctx, "w2", "sh", "-c", "cat "+dockerHosts+" 2>/dev/null || true")
			return now == before, now, err
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(w.Out, "After %.0f s %s is what it was.\n", time.Since(start).Seconds(), dockerHosts)
	}
	if _, err := w.OnNode(ctx, "w2", "rm", "-r", gone); err != nil {
		return err
	}
	return w.awaitPull(ctx, "w2")
}
