package steps

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// startupTaint keeps pods off a machine until its mirror is proven.
	startupTaint = "pyrsia.io/mirror-not-proven"
	// userTaint is one of a machine for pods of its own kind.
	userTaint = "example.com/gpu"
	// mayRemoveTaint is what lets the operator take the first one away.
	mayRemoveTaint = "config/startup-taint/startup-taint.yaml"
)

// joinTainted adds a machine with the start-up taint and taints of a user's, whose
// containerd's config_path is not set. It is mended by what pyrsia says.
func joinTainted(ctx context.Context, w *Env) error {
	for _, argv := range [][]string{
		{"kubectl", "apply", "-f", mayRemoveTaint},
		{"kubectl", "patch", "pyrsianode", "mirror", "--type", "merge", "-p", `{"spec": {"mirror": {"startupTaint": true}}}`},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			return err
		}
	}
	if err := w.createPod(ctx, "ordinary", w.nextNode(), "hello:1", corev1.Toleration{Key: userTaint, Operator: corev1.TolerationOpExists}); err != nil {
		return err
	}
	node, _, err := w.join(ctx, "STOCK=1", fmt.Sprintf("TAINTS=%s=:NoSchedule,%s=yes:NoSchedule,%[2]s=yes:NoExecute", startupTaint, userTaint))
	if err != nil {
		return err
	}
	if err := w.mirrorsEverywhere(ctx); err != nil {
		return err
	}
	if err := w.awaitProof(ctx, noticed, metav1.ConditionFalse, node); err != nil {
		return err
	}
	if err := w.runsOnlyOurs(ctx, node, "ordinary"); err != nil {
		return err
	}
	if err := w.setConfigPath(ctx, node); err != nil {
		return err
	}
	if err := w.awaitProof(ctx, pulledAgain, metav1.ConditionTrue, ""); err != nil {
		return err
	}
	if err := w.ranAfterProof(ctx, node, "ordinary"); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"kubectl", "delete", "pod", "ordinary"},
		{"kubectl", "patch", "pyrsianode", "mirror", "--type", "merge", "-p", `{"spec": {"mirror": {"startupTaint": false}}}`},
		{"kubectl", "delete", "-f", mayRemoveTaint},
	} {
		if err := w.Show(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// runsOnlyOurs checks that a machine has its start-up taint, and that no pods were
// placed there but the operator's.
func (w *Env) runsOnlyOurs(ctx context.Context, node, waits string) error {
	if tainted, err := w.hasStartupTaint(ctx, node); err != nil || !tainted {
		return errors.Join(fmt.Errorf("%s has no taint %s any more, and is not proven", node, startupTaint), err)
	}
	var pods corev1.PodList
	if err := w.Client.List(ctx, &pods); err != nil {
		return err
	}
	var there []string
	for _, p := range pods.Items {
		switch {
		case p.Name == waits && p.Spec.NodeName != "":
			return fmt.Errorf("pod %s was placed on %s before the proof", waits, p.Spec.NodeName)
		case p.Spec.NodeName != node:
		case p.Labels["app.kubernetes.io/managed-by"] != "pyrsia-operator":
			return fmt.Errorf("pod %s/%s was placed on %s before the proof", p.Namespace, p.Name, node)
		default:
			there = append(there, p.Name)
		}
	}
	fmt.Fprintf(w.Out, "%s has its taint, and no pods but %s; %s waits.\n", node, strings.Join(there, ", "), waits)
	return nil
}

func (w *Env) hasStartupTaint(ctx context.Context, node string) (bool, error) {
	var n corev1.Node
	err := w.Client.Get(ctx, client.ObjectKey{Name: node}, &n)
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == startupTaint }), err
}

// toSet is how 'pyrsia containerd status' tells what to write into containerd's configuration.
var toSet = regexp.MustCompile(`(?m)^ +(\[plugins\..+\.registry\])\n +(config_path = "[^"]+")$`)

// setConfigPath does on a machine what 'pyrsia containerd status' says there.
func (w *Env) setConfigPath(ctx context.Context, node string) error {
	pyrsia, err := w.program(ctx, node)
	if err != nil {
		return err
	}
	said, err := w.OnNode(ctx, node, "sh", "-c", `if "$0" containerd status 2>&1; then echo status has found nothing wrong; fi`, pyrsia)
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "%s$ pyrsia containerd status\n%s", node, said)
	lines := toSet.FindStringSubmatch(said)
	if lines == nil || strings.Contains(said, "nothing wrong") {
		return errors.New("pyrsia containerd status does not say which config_path to set")
	}
	if err := w.restartContainerd(ctx, node, fmt.Sprintf("printf '%%s\\n' '%s' '  %s' >>$0", lines[1], lines[2])); err != nil {
		return err
	}
	_, err = w.OnNode(ctx, node, pyrsia, "containerd", "status")
	return err
}

// ranAfterProof waits until a pod has run on a machine whose start-up taint is gone,
// and checks that it was placed there after the proof.
func (w *Env) ranAfterProof(ctx context.Context, node, pod string) error {
	if _, err := w.awaitEnd(ctx, pod); err != nil {
		return err
	}
	if err := w.checkImageID(ctx, pod, "hello:1"); err != nil {
		return err
	}
	if tainted, err := w.hasStartupTaint(ctx, node); err != nil || tainted {
		return errors.Join(fmt.Errorf("%s still has the taint %s", node, startupTaint), err)
	}
	var p corev1.Pod
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: pod}, &p); err != nil {
		return err
	}
	mirror, err := w.mirrorPod(ctx, node)
	if err != nil {
		return err
	}
	placed := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue
	})
	canary := slices.IndexFunc(mirror.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "canary" && s.State.Running != nil })
	if placed < 0 || canary < 0 {
		return fmt.Errorf("pod %s was never placed, or there is no canary on %s: %+v, %+v", pod, node, p.Status.Conditions, mirror.Status.ContainerStatuses)
	}
	after := p.Status.Conditions[placed].LastTransitionTime.Sub(mirror.Status.ContainerStatuses[canary].State.Running.StartedAt.Time)
	if after < 0 {
		return fmt.Errorf("pod %s was placed on %s %s before its canary started", pod, node, -after)
	}
	fmt.Fprintf(w.Out, "The taint %s of %s is gone, and %s was placed there %s after the canary had started.\n", startupTaint, node, pod, after)
	return nil
}

// program puts the project's program on a machine, from its image there.
func (w *Env) program(ctx context.Context, node string) (string, error) {
	const file, script = "/var/lib/pyrsia-program", `mkdir -p /run/pyrsia-image
ctr -n k8s.io images mount "$1" /run/pyrsia-image >/dev/null
cp --remove-destination /run/pyrsia-image/pyrsia "$0"
ctr -n k8s.io images unmount --rm /run/pyrsia-image >/dev/null`
	_, err := w.OnNode(ctx, node, "sh", "-ec", script, file, "ghcr.io/pyrsia/pyrsia:v0.1.0")
	return file, err
}
