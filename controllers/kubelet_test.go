package controllers_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	pyrsia "github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/cli"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// nextIP gives a pod a loopback address of its own. Tests that run in another
// process at the same time have others.
func nextIP() string {
	n := lastIP.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()%250, n/250, 1+n%250)
}

var lastIP atomic.Int32

// pod is a pod of a PyrsiaNode: its object, and the real node in it. An API
// server without kubelets runs none; the test does in their place.
type pod struct {
	*corev1.Pod
	ip     string
	port   int32 // of a mirror
	data   string
	config pyrsia.Config
	stop   func()
}

// runPod starts a pod of n as its workload describes it, with the keys from
// the Secrets that the operator wrote. data may be the volume of an earlier pod.
func (c *cluster) runPod(t *testing.T, n *v1alpha1.PyrsiaNode, data string) *pod {
	t.Helper()
	return c.runPodAt(t, n, data, nextIP())
}

func (c *cluster) runPodAt(t *testing.T, n *v1alpha1.PyrsiaNode, data, ip string) *pod {
	t.Helper()
	template := c.awaitTemplate(t, n)
	p := &pod{ip: ip, port: desired.MirrorSpec(n).Port, data: data}
	if p.data == "" {
		p.data = shortFolder(t)
	}
	config := c.nodeConfig(t, n, template, p)
	p.config = config
	c.runRestore(t, n, template, p)
	ctx, cancel := context.WithCancel(context.Background())
	node, err := pyrsia.Start(ctx, config)
	if err != nil {
		cancel()
		t.Fatalf("starting the node of %s: %v", n.Name, err)
	}
	frontend := func() {}
	if n.Spec.Role == v1alpha1.RoleMirror {
		frontend = c.runFrontend(t, n, p)
	}
	p.Pod = c.createPod(t, n, template, p.ip)
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		frontend()
		cancel()
		if err := node.Close(); err != nil {
			t.Errorf("ending the node of %s: %v", n.Name, err)
		}
		c.deletePod(p.Pod)
	}
	t.Cleanup(p.stop)
	return p
}

// shortFolder is a temporary one whose path leaves room for the name of a Unix
// socket, 108 bytes in all, however long the test's own name is.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runFrontend runs the frontend of a mirror's pod as its DaemonSet describes
// it, at the pod's address and without a successor.
func (c *cluster) runFrontend(t *testing.T, n *v1alpha1.PyrsiaNode, p *pod) (stop func()) {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: desired.FrontendName(n)}}
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(set), set) })
	args := slices.Clone(set.Spec.Template.Spec.Containers[0].Args)
	addr := ""
	for i, a := range args {
		if port, ok := strings.CutPrefix(a, "127.0.0.1:"); ok {
			args[i] = net.JoinHostPort(p.ip, port)
			addr = cmp.Or(addr, args[i]) // the others are former ones
		}
		if a == "/sockets" {
			args[i] = filepath.Join(p.data, desired.FrontendDir)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var out strings.Builder
	ended := make(chan int, 1)
	go func() { ended <- cli.Main(ctx, append(args, "--succession", "1ms", "--drain", "1ms"), &out, &out) }()
	eventually(t, func() error { // a pod is ready when it listens
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return func() {
		cancel()
		if status := <-ended; status != 0 {
			t.Errorf("%q ended with %d:\n%s", args, status, out.String())
		}
	}
}

// createPod makes the object of a pod that is ready, and counts it.
func (c *cluster) createPod(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, ip string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, GenerateName: n.Name + "-", Labels: template.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: nodeContainerOf(template).Image}}},
	}
	var statuses []corev1.ContainerStatus
	for _, container := range template.Spec.Containers {
		if container.Name == objects.ContainerCanary { // containerd has got it from the mirror
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: container.Name, Image: container.Image})
			statuses = append(statuses, corev1.ContainerStatus{Name: container.Name, Ready: true})
		}
	}
	c.create(t, pod)
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, HostIP: ip, HostIPs: []corev1.HostIP{{IP: ip}}, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, ContainerStatuses: statuses,
	}
	must(t, c.Status().Update(t.Context(), pod))
	c.setWorkloadStatus(t, n, 1, 1)
	return pod
}

func (c *cluster) deletePod(pod *corev1.Pod) {
	_ = c.Delete(context.Background(), pod, client.GracePeriodSeconds(0))
}

// awaitTemplate waits for the workload of n.
func (c *cluster) awaitTemplate(t *testing.T, n *v1alpha1.PyrsiaNode) corev1.PodTemplateSpec {
	t.Helper()
	var template corev1.PodTemplateSpec
	eventually(t, func() error {
		if n.Spec.Role == v1alpha1.RolePublisher {
			set := new(appsv1.StatefulSet)
			err := c.Get(t.Context(), client.ObjectKeyFromObject(n), set)
			template = set.Spec.Template
			return err
		}
		set := new(appsv1.DaemonSet)
		err := c.Get(t.Context(), client.ObjectKeyFromObject(n), set)
		template = set.Spec.Template
		return err
	})
	return template
}

// nodeContainerOf is the node's container, which may be a sidecar.
func nodeContainerOf(template corev1.PodTemplateSpec) corev1.Container {
	for _, c := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
		if c.Name == "node" {
			return c
		}
	}
	return corev1.Container{}
}

// nodeConfig reads the container's arguments; the addresses become those of the
// pod, as there is no cluster network.
func (c *cluster) nodeConfig(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, p *pod) pyrsia.Config {
	t.Helper()
	dir := t.TempDir()
	at := func(port string) string { return net.JoinHostPort(p.ip, strings.TrimPrefix(port, ":")) }
	config := pyrsia.Config{DataDir: p.data, Upstreams: map[string]string{}, Logger: slog.New(slog.DiscardHandler)}
	args := nodeContainerOf(template).Args
	if args[0] != "node" || len(args)%2 != 1 {
		t.Fatalf("the container's arguments are %q", args)
	}
	for i := 1; i < len(args); i += 2 {
		switch value := args[i+1]; args[i] {
		case "--role":
			config.Role = control.Role(value)
		case "--data":
		case "--p2p-port":
			_, kind := desired.HostKind(p.ip)
			config.P2PListen = []string{"/" + kind + "/" + p.ip + "/tcp/" + value}
		case "--open-addr":
			config.OpenAddr = at(value)
		case "--control-addr":
			config.ControlAddr = at(value)
		case "--mirror-addr":
			config.MirrorAddr = strings.Replace(value, "/data", p.data, 1)
			if !strings.HasPrefix(value, "unix:") {
				config.MirrorAddr = at(value)
			}
		case "--control-key":
			config.ControlKeyFile = c.secretFile(t, n, template, dir, value)
		case "--operator-key":
			config.OperatorKeyFile = c.secretFile(t, n, template, dir, value)
		case "--signing-key":
			config.SigningKeyFile = c.secretFile(t, n, template, dir, value)
		case "--next-signing-key":
			config.NextSigningKeyFile = c.secretFile(t, n, template, dir, value)
		case "--upstream":
			registry, endpoint, _ := strings.Cut(value, "=")
			config.Upstreams[registry] = endpoint
		case "--upstream-secrets":
			config.UpstreamSecrets = c.secretFolder(t, n, template)
		case "--on-pull-per-hour":
			config.OnPullPerHour = atoi(t, value)
		case "--on-pull-allow":
			config.OnPullAllow = append(config.OnPullAllow, value)
		case "--ledger-key":
			config.LedgerKey = value
		case "--announce":
			config.ExternalAddrs = append(config.ExternalAddrs, strings.ReplaceAll(value, desired.HostIPs, p.ip))
		case "--copy-concurrency":
			config.CopyConcurrency = atoi(t, value)
		case "--bootstrap":
			config.Bootstrap = append(config.Bootstrap, c.resolve(t, n, value))
		case "--cache-size":
			config.CacheSize = int64(atoi(t, value))
		case "--prefetch":
			config.Prefetch = append(config.Prefetch, value)
		default:
			t.Fatalf("unknown argument %s", args[i])
		}
	}
	return config
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// resolve does what the cluster's DNS would do.
func (c *cluster) resolve(t *testing.T, n *v1alpha1.PyrsiaNode, address string) string {
	t.Helper()
	host, ok := strings.CutPrefix(address, "http://")
	if !ok {
		return address // of no DNS name
	}
	name, rest, _ := strings.Cut(host, ".")
	pods := new(corev1.PodList)
	must(t, c.List(t.Context(), pods, client.InNamespace(n.Namespace), client.MatchingLabels{objects.LabelInstance: name}))
	_, port, err := net.SplitHostPort(rest)
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("cannot resolve %s: %d pods, %v", address, len(pods.Items), err)
	}
	return "http://" + net.JoinHostPort(pods.Items[0].Status.PodIP, port)
}

// secretFile is the file in a Secret that the template mounts, below dir.
func (c *cluster) secretFile(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, dir, mounted string) string {
	t.Helper()
	secret := new(corev1.Secret)
	secret.Namespace = n.Namespace
	for _, m := range nodeContainerOf(template).VolumeMounts {
		for _, v := range template.Spec.Volumes {
			if m.MountPath == path.Dir(mounted) && v.Name == m.Name {
				secret.Name = v.Secret.SecretName
			}
		}
	}
	c.get(t, secret)
	file := filepath.Join(dir, strings.ReplaceAll(mounted, "/", "_"))
	must(t, os.WriteFile(file, secret.Data[path.Base(mounted)], 0o600))
	return file
}

// runRestore runs the init container that gives a publisher its ledger back, if
// the template has it.
func (c *cluster) runRestore(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, p *pod) {
	t.Helper()
	for _, init := range template.Spec.InitContainers {
		if init.Name != "restore" {
			continue
		}
		args, dir := slices.Clone(init.Args), t.TempDir()
		for i, a := range args {
			switch {
			case a == "/data":
				args[i] = p.data
			case strings.HasPrefix(a, "/signing/"):
				args[i] = c.secretFile(t, n, template, dir, a)
			case strings.HasPrefix(a, "http://"):
				args[i] = c.resolve(t, n, a)
			}
		}
		var out strings.Builder
		if status := cli.Main(t.Context(), args, &out, &out); status != 0 {
			t.Fatalf("%q ended with %d:\n%s", args, status, out.String())
		}
	}
}

// secretFolder is what the kubelet would mount of an upstream's Secrets.
func (c *cluster) secretFolder(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec) string {
	t.Helper()
	dir := t.TempDir()
	for _, mount := range nodeContainerOf(template).VolumeMounts {
		if path.Dir(mount.MountPath) != desired.UpstreamSecretsPath {
			continue
		}
		folder := filepath.Join(dir, path.Base(mount.MountPath))
		must(t, os.Mkdir(folder, 0o700))
		for _, v := range template.Spec.Volumes {
			if v.Name != mount.Name {
				continue
			}
			for _, source := range v.Projected.Sources {
				secret := new(corev1.Secret)
				must(t, c.Get(t.Context(), client.ObjectKey{Namespace: n.Namespace, Name: source.Secret.Name}, secret))
				for key, value := range secret.Data {
					must(t, os.WriteFile(filepath.Join(folder, key), value, 0o600))
				}
			}
		}
	}
	return dir
}

// setWorkloadStatus says what the cluster's own controllers would say.
func (c *cluster) setWorkloadStatus(t *testing.T, n *v1alpha1.PyrsiaNode, scheduled, ready int32) {
	t.Helper()
	if n.Spec.Role == v1alpha1.RoleMirror {
		c.setDaemonSetStatus(t, n.Namespace, n.Name, scheduled, ready)
		c.setDaemonSetStatus(t, n.Namespace, desired.FrontendName(n), scheduled, ready)
		return
	}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}
	c.until(t, set, func() error { // the operator may be writing it
		set.Status.ObservedGeneration, set.Status.Replicas, set.Status.ReadyReplicas = set.Generation, scheduled, ready
		return c.Status().Update(t.Context(), set)
	})
}

func (c *cluster) setDaemonSetStatus(t *testing.T, namespace, name string, desired, ready int32) {
	t.Helper()
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	c.until(t, set, func() error {
		set.Status.ObservedGeneration, set.Status.DesiredNumberScheduled, set.Status.NumberReady = set.Generation, desired, ready
		set.Status.UpdatedNumberScheduled = desired
		return c.Status().Update(t.Context(), set)
	})
}
