package steps

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
)

// DockerHub is the name of the upstream that is not on this machine.
const DockerHub = "docker.io"

// Env is what the steps work on and leave for each other.
type Env struct {
	Out io.Writer
	// Root is the folder of the checkout.
	Root string
	// Upstream is DockerHub, or empty for a registry on this machine.
	Upstream string

	// Set by the step that starts the cluster.

	// Client reads the cluster's objects.
	Client client.Client
	env    []string          // for commands: KUBECONFIG, PATH
	vars   map[string]string // what `cluster env` says

	// Set by the step that starts the upstream registry.

	registry *upstream.Registry // nil on Docker Hub, and while it does not run
	content  upstream.Content
	// pushed are the digests that the upstream had at publication; none are
	// known of Docker Hub.
	pushed map[string]v1.Hash

	ahead map[string]*ahead // commands that were begun before their turn, by their line

	workers []string // the Kubernetes nodes on which pods start
	others  []string // those whose taints keep pods away, the control plane among them
	// settings are what containerd's were on each worker before the project's.
	settings map[string]string
}

// Close ends what the steps started outside the cluster.
func (w *Env) Close() error {
	for _, a := range w.ahead {
		a.end()
		<-a.ended
	}
	if w.registry == nil {
		return nil
	}
	return w.registry.Stop()
}

// small is the image with which the demo shows what holds for every image.
func (w *Env) small() string {
	if w.Upstream == DockerHub {
		return "busybox:1.37"
	}
	return "busybox:1.35"
}

// RegistryAddr is where the cluster reaches the upstream: on this machine.
func (w *Env) RegistryAddr() string { return net.JoinHostPort(w.vars["CLUSTER_HOST_IP"], "5000") }

const clusterScript = "hack/cluster/cluster"

// readCluster learns from the cluster script how to reach the cluster.
func (w *Env) readCluster(ctx context.Context) error {
	out, err := w.Output(ctx, clusterScript, "env")
	if err != nil {
		return err
	}
	w.vars = map[string]string{}
	for line := range strings.Lines(out) {
		k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok {
			w.vars[k] = strings.Trim(v, `'"`)
			w.env = append(w.env, k+"="+os.Expand(w.vars[k], w.expand))
		}
	}
	return nil
}

func (w *Env) expand(k string) string {
	if v, ok := w.vars[k]; ok && k != "PATH" {
		return v
	}
	return os.Getenv(k)
}

// connect makes the client of the cluster's API.
func (w *Env) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", w.vars["KUBECONFIG"])
	if err != nil {
		return fmt.Errorf("reading the cluster's kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	w.Client, err = client.New(config, client.Options{Scheme: scheme})
	return err
}

// readNodes learns which Kubernetes nodes there are.
func (w *Env) readNodes(ctx context.Context) error {
	var nodes corev1.NodeList
	if err := w.Client.List(ctx, &nodes); err != nil {
		return err
	}
	w.workers, w.others = nil, nil
	for _, n := range nodes.Items {
		// Kubernetes' own are there for a moment after a node has become Ready.
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return !strings.HasPrefix(t.Key, "node.kubernetes.io/") }) {
			w.others = append(w.others, n.Name)
		} else {
			w.workers = append(w.workers, n.Name)
		}
	}
	return nil
}

// machines are the Kubernetes nodes, on all of which a mirror stands.
func (w *Env) machines() []string { return slices.Concat(w.others, w.workers) }

// Resume takes up a cluster that the steps of another process have left running.
func (w *Env) Resume(ctx context.Context) error {
	if err := w.readCluster(ctx); err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	if err := w.readNodes(ctx); err != nil {
		return err
	}
	return w.serveUpstream(ctx)
}

// lookPath finds a program on the PATH that commands get.
func (w *Env) lookPath(name string) string {
	if strings.Contains(name, "/") {
		return ""
	}
	for _, kv := range slices.Backward(w.env) { // of two, the later one counts
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
					return p
				}
			}
		}
	}
	return ""
}
