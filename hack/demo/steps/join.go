package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// joinWorker adds a machine on which nothing keeps pods away, and tells what
// happens before its mirror stands.
func joinWorker(ctx context.Context, w *Env) error {
	// It waits for the machine.
	if err := w.createPod(ctx, "first", w.nextNode(), "unpublished:1"); err != nil {
		return err
	}
	node, ready, err := w.join(ctx)
	if err != nil {
		return err
	}
	err = w.Await(ctx, "containerd's set-up on "+node, time.Minute, func(ctx context.Context) (bool, string, error) {
		_, err := w.OnNode(ctx, node, "grep", "-q", "127.0.0.1:5001", dockerHosts)
		return err == nil, "", err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "From the moment in which %s was Ready it took %.1f s until its containerd was strict.\n", node, time.Since(ready).Seconds())
	if err := w.tellFirst(ctx); err != nil {
		return err
	}
	if err := w.awaitPull(ctx, node); err != nil {
		return err
	}
	return w.mirrorsEverywhere(ctx)
}

// tellFirst tells whether the pod that was there before the mirror ran, whose
// image is not on the ledger. Both outcomes are possible.
func (w *Env) tellFirst(ctx context.Context) error {
	err := w.Await(ctx, "pod first", time.Minute, func(ctx context.Context) (bool, string, error) {
		var p corev1.Pod
		if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "first"}, &p); err != nil {
			return false, "", err
		}
		switch {
		case p.Status.Phase == corev1.PodSucceeded:
			fmt.Fprintln(w.Out, "A pod of an image that nobody vouches for has run there before that.")
		case len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			strings.Contains(p.Status.ContainerStatuses[0].State.Waiting.Reason, "ImagePull"):
			fmt.Fprintln(w.Out, "A pod of an image that nobody vouches for came too late to run there.")
		default:
			return false, string(p.Status.Phase), nil
		}
		return true, "", nil
	})
	if err != nil {
		return err
	}
	return w.Show(ctx, "kubectl", "delete", "pod", "first", "--now")
}

// nextNode is what the next machine is called: the control plane is one of them.
func (w *Env) nextNode() string { return fmt.Sprintf("w%d", len(w.machines())) }

// join adds a machine that has the images of the project on its disk, which no
// registry serves here, and settings of a user's: the demo's registry is Docker
// Hub there. It notes these before a mirror can come, and tells when the machine
// was Ready.
func (w *Env) join(ctx context.Context, how ...string) (node string, ready time.Time, err error) {
	node = w.nextNode()
	etc := filepath.Join("tmp", "demo", "etc")
	for _, registry := range []string{"docker.io", w.RegistryAddr()} {
		dir := filepath.Join(w.Root, etc, "containerd", "certs.d", registry)
		err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%s\"\n", w.RegistryAddr()), 0o644))
		if err != nil {
			return "", ready, err
		}
	}
	watched, end := context.WithCancel(ctx)
	defer end()
	seen := make(chan machine, 1)
	go func() { seen <- w.watchJoin(watched, node) }()
	argv := slices.Concat([]string{"env", "ETC=" + etc}, how, []string{clusterScript, "add"}, archives("tmp/demo"))
	if err := w.Show(ctx, argv...); err != nil {
		return "", ready, err
	}
	m := <-seen
	if m.err != nil {
		return "", ready, m.err
	}
	if w.settings != nil { // else the steps that compare them do not run
		w.settings[node] = m.settings
	}
	return node, m.ready, w.readNodes(ctx)
}

// machine is what was seen of one while it joined.
type machine struct {
	settings string
	ready    time.Time
	err      error
}

func (w *Env) watchJoin(ctx context.Context, node string) (m machine) {
	m.err = w.Await(ctx, node+" to boot", time.Minute, func(ctx context.Context) (done bool, missing string, err error) {
		// A command that comes before the disk is mounted sees this machine's.
		m.settings, err = w.readSettings(ctx, node)
		return strings.Contains(m.settings, w.RegistryAddr()), m.settings, err
	})
	if m.err != nil {
		return m
	}
	m.err = w.Await(ctx, node+" to be Ready", 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		var n corev1.Node
		err := w.Client.Get(ctx, client.ObjectKey{Name: node}, &n)
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}), "", err
	})
	m.ready = time.Now()
	return m
}

// createPod runs an image to its end in a new pod, which the scheduler has to
// place.
func (w *Env) createPod(ctx context.Context, name, node, image string, tolerations ...corev1.Toleration) error {
	fmt.Fprintf(w.Out, "Pod %s: docker.io/library/%s, for %s alone.\n", name, image, node)
	return w.Client.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{corev1.LabelHostname: node},
			Tolerations:                   tolerations,
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "main", Image: "docker.io/library/" + image}},
		},
	})
}
