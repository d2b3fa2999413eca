package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// pullThroughMirror starts a pod whose image can come from nowhere but the
// mirror: containerd is in strict mode, and the upstream does not run.
func pullThroughMirror(ctx context.Context, w *Env) error {
	image := w.small()
	if err := w.Show(ctx, clusterScript, "exec", "w1", "cat", "/etc/containerd/certs.d/docker.io/hosts.toml"); err != nil {
		return err
	}
	if err := w.startPod(ctx, "busybox", image, "w1", "sleep", "86400"); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "wait", "--for=condition=Ready", "pod/busybox", "--timeout=120s"); err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "get", "pod", "busybox", "-o",
		`jsonpath={.status.containerStatuses[0].image}{"\n"}{.status.containerStatuses[0].imageID}{"\n"}`); err != nil {
		return err
	}
	return w.checkImageID(ctx, "busybox", image)
}

// runDebian runs a pod of Debian's root file system, and has its package
// manager find every file as Debian has it.
func runDebian(ctx context.Context, w *Env) error {
	const image = "debian:minbase"
	err := w.startPod(ctx, "debian", image, "w2", "bash", "-c",
		". /etc/os-release && echo $PRETTY_NAME, $(dpkg-query -W | wc -l) packages && dpkg --verify base-files bash coreutils dpkg | grep -v /usr/share/ || echo no file differs")
	if err != nil {
		return err
	}
	said, err := w.awaitEnd(ctx, "debian")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(said, "Debian GNU/Linux") || !strings.Contains(said, "no file differs") {
		return fmt.Errorf("the pod debian said %q", said)
	}
	return w.checkImageID(ctx, "debian", image)
}

// pullBig pulls an image with a layer over 100 MB on every worker in parallel.
func pullBig(ctx context.Context, w *Env) error {
	const image = "big:1"
	pods := make([]string, len(w.workers))
	for i, node := range w.workers {
		pods[i] = "pod/big-" + node
		if err := w.startPod(ctx, "big-"+node, image, node, "sleep", "86400"); err != nil {
			return err
		}
	}
	wait := append([]string{"kubectl", "wait", "--for=condition=Ready", "--timeout=120s"}, pods...)
	if err := w.Show(ctx, wait...); err != nil {
		return err
	}
	for _, node := range w.workers {
		if err := w.checkImageID(ctx, "big-"+node, image); err != nil {
			return err
		}
	}
	return nil
}

// startPod runs a command in a new pod on the node.
func (w *Env) startPod(ctx context.Context, name, image, node string, command ...string) error {
	argv := []string{"kubectl", "run", name, "--image=" + image, "--restart=Never",
		`--overrides={"spec":{"nodeName":"` + node + `","terminationGracePeriodSeconds":0}}`}
	if len(command) > 0 {
		argv = append(append(argv, "--command", "--"), command...)
	}
	return w.Show(ctx, argv...)
}

// checkImageID compares what the kubelet says it runs with what the ledger
// says was published.
func (w *Env) checkImageID(ctx context.Context, pod, image string) error {
	var p corev1.Pod
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: pod}, &p); err != nil {
		return err
	}
	if len(p.Status.ContainerStatuses) == 0 {
		return fmt.Errorf("pod %s has no container yet", pod)
	}
	id := p.Status.ContainerStatuses[0].ImageID
	_, digest, _ := strings.Cut(id, "@")
	a, err := w.artifact(ctx, image)
	if err != nil {
		return err
	}
	if digest != a.Spec.Digest {
		return fmt.Errorf("pod %s runs %s, but the ledger says %s", pod, id, a.Spec.Digest)
	}
	if want, ok := w.pushed[image]; ok && digest != want.String() {
		return fmt.Errorf("pod %s runs %s, but the upstream had %s when it was published", pod, id, want)
	}
	fmt.Fprintf(w.Out, "%s on %s runs %s: block %d of the ledger.\n", pod, p.Spec.NodeName, digest, a.Status.Block.Height)
	return nil
}

// awaitPod waits until a pod that may not be there yet is ready.
func (w *Env) awaitPod(ctx context.Context, name string) error {
	return w.Await(ctx, "pod "+name, 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		var p corev1.Pod
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &p); err != nil {
			return false, "", err
		}
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		return ready && p.DeletionTimestamp == nil, string(p.Status.Phase), nil
	})
}

// awaitEnd waits for a pod that runs to its end, and shows what it printed.
func (w *Env) awaitEnd(ctx context.Context, pod string) (string, error) {
	if err := w.Show(ctx, "kubectl", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+pod, "--timeout=120s"); err != nil {
		return "", err
	}
	if err := w.Show(ctx, "kubectl", "logs", pod); err != nil {
		return "", err
	}
	return w.Output(ctx, "kubectl", "logs", pod)
}

// awaitEvent waits for an event about a pod whose message contains all texts.
func (w *Env) awaitEvent(ctx context.Context, pod string, texts ...string) (string, error) {
	return w.awaitEventOf(ctx, pod, "", texts...)
}

// awaitEventOf is awaitEvent for one of the pods that have had the name.
func (w *Env) awaitEventOf(ctx context.Context, pod string, uid types.UID, texts ...string) (string, error) {
	var message string
	err := w.Await(ctx, "an event about pod "+pod, time.Minute, func(ctx context.Context) (bool, string, error) {
		var events corev1.EventList
		if err := w.Client.List(ctx, &events, client.InNamespace(namespace)); err != nil {
			return false, "", err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == pod && (uid == "" || e.InvolvedObject.UID == uid) && containsAll(e.Message, texts) {
				message = e.Message
				return true, "", nil
			}
		}
		return false, fmt.Sprintf("no event that says %q", texts), nil
	})
	return message, err
}

func containsAll(s string, texts []string) bool {
	for _, t := range texts {
		if !strings.Contains(s, t) {
			return false
		}
	}
	return true
}
