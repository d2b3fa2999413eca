package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	pyrsia "github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// lastIP is the last octet of the loopback address that a pod got last.
var lastIP atomic.Int32

func init() { lastIP.Store(1) }

// pod is a pod of a PyrsiaNode: its object, and the real node in it. An API
// server without kubelets runs none; the test does in their place.
type pod struct {
	*corev1.Pod
	ip   string
	data string
	stop func()
}

// runPod starts a pod of n as its workload describes it, with the keys from
// the Secrets that the operator wrote. data may be the volume of an earlier pod.
func (c *cluster) runPod(t *testing.T, n *v1alpha1.PyrsiaNode, data string) *pod {
	t.Helper()
	template := c.awaitTemplate(t, n)
	p := &pod{ip: fmt.Sprintf("127.0.0.%d", lastIP.Add(1)), data: data}
	if p.data == "" {
		p.data = t.TempDir()
	}
	config := c.nodeConfig(t, n, template, p)
	ctx, cancel := context.WithCancel(context.Background())
	node, err := pyrsia.Start(ctx, config)
	if err != nil {
		cancel()
		t.Fatalf("starting the node of %s: %v", n.Name, err)
	}
	c.showPod(t, n, template, p)
	c.setWorkloadStatus(t, n, 1, 1)
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := node.Close(); err != nil {
			t.Errorf("ending the node of %s: %v", n.Name, err)
		}
		_ = c.Delete(context.Background(), p.Pod, client.GracePeriodSeconds(0))
	}
	t.Cleanup(p.stop)
	return p
}

// showPod makes the pod's object, as the kubelet of a pod that is ready.
func (c *cluster) showPod(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, p *pod) {
	t.Helper()
	p.Pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, GenerateName: n.Name + "-", Labels: template.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: template.Spec.Containers[0].Image}}},
	}
	c.create(t, p.Pod)
	p.Pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: p.ip, PodIPs: []corev1.PodIP{{IP: p.ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if err := c.Status().Update(t.Context(), p.Pod); err != nil {
		t.Fatal(err)
	}
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

// nodeConfig reads the container's arguments; the addresses become those of
// the pod, as there is no cluster network.
func (c *cluster) nodeConfig(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, p *pod) pyrsia.Config {
	t.Helper()
	dir := t.TempDir()
	at := func(port string) string { return net.JoinHostPort(p.ip, strings.TrimPrefix(port, ":")) }
	config := pyrsia.Config{DataDir: p.data, Upstreams: map[string]string{}, Logger: slog.New(slog.DiscardHandler)}
	args := template.Spec.Containers[0].Args
	if args[0] != "node" || len(args)%2 != 1 {
		t.Fatalf("the container's arguments are %q", args)
	}
	for i := 1; i < len(args); i += 2 {
		switch value := args[i+1]; args[i] {
		case "--role":
			config.Role = control.Role(value)
		case "--data":
		case "--p2p-port":
			config.P2PListen = []string{"/ip4/" + p.ip + "/tcp/" + value}
		case "--open-addr":
			config.OpenAddr = at(value)
		case "--control-addr":
			config.ControlAddr = at(value)
		case "--mirror-addr":
			config.MirrorAddr = at(value)
		case "--control-key":
			config.ControlKeyFile = c.secretFile(t, n, dir, controlSecretName(n), filepath.Base(value))
		case "--operator-key":
			config.OperatorKeyFile = c.secretFile(t, n, dir, controlSecretName(n), filepath.Base(value))
		case "--signing-key":
			config.SigningKeyFile = c.secretFile(t, n, dir, signingSecretName(n), filepath.Base(value))
		case "--upstream":
			registry, endpoint, _ := strings.Cut(value, "=")
			config.Upstreams[registry] = endpoint
		case "--upstream-secrets":
			config.UpstreamSecrets = c.secretFolder(t, n, template)
		case "--on-pull-per-hour":
			perHour, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			config.OnPullPerHour = perHour
		case "--on-pull-allow":
			config.OnPullAllow = append(config.OnPullAllow, value)
		case "--ledger-key":
			config.LedgerKey = value
		case "--bootstrap":
			config.Bootstrap = append(config.Bootstrap, c.resolve(t, n, value))
		case "--cache-size":
			size, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			config.CacheSize = size
		case "--prefetch":
			config.Prefetch = append(config.Prefetch, value)
		default:
			t.Fatalf("unknown argument %s", args[i])
		}
	}
	return config
}

// resolve does what the cluster's DNS would do.
func (c *cluster) resolve(t *testing.T, n *v1alpha1.PyrsiaNode, address string) string {
	t.Helper()
	parts := strings.SplitN(address, "/", 4) // "", "dns4", HOST, the rest
	if parts[1] == "ip4" {
		return address
	}
	name, _, _ := strings.Cut(parts[2], ".")
	pods := new(corev1.PodList)
	if err := c.List(t.Context(), pods, client.InNamespace(n.Namespace), client.MatchingLabels{labelInstance: name}); err != nil {
		t.Fatal(err)
	}
	if parts[1] != "dns4" || len(pods.Items) != 1 {
		t.Fatalf("cannot resolve %s: %d pods", address, len(pods.Items))
	}
	return "/ip4/" + pods.Items[0].Status.PodIP + "/" + parts[3]
}

func (c *cluster) secretFile(t *testing.T, n *v1alpha1.PyrsiaNode, dir, name, key string) string {
	t.Helper()
	secret := new(corev1.Secret)
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: n.Namespace, Name: name}, secret); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, key)
	if err := os.WriteFile(file, secret.Data[key], 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// secretFolder is what the kubelet would mount of an upstream's Secrets.
func (c *cluster) secretFolder(t *testing.T, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec) string {
	t.Helper()
	dir := t.TempDir()
	for _, mount := range template.Spec.Containers[0].VolumeMounts {
		if path.Dir(mount.MountPath) != upstreamSecretsPath {
			continue
		}
		folder := filepath.Join(dir, path.Base(mount.MountPath))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, v := range template.Spec.Volumes {
			if v.Name != mount.Name {
				continue
			}
			for _, source := range v.Projected.Sources {
				secret := new(corev1.Secret)
				if err := c.Get(t.Context(), client.ObjectKey{Namespace: n.Namespace, Name: source.Secret.Name}, secret); err != nil {
					t.Fatal(err)
				}
				for key, value := range secret.Data {
					if err := os.WriteFile(filepath.Join(folder, key), value, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	return dir
}

// setWorkloadStatus says what the cluster's own controllers would say.
func (c *cluster) setWorkloadStatus(t *testing.T, n *v1alpha1.PyrsiaNode, desired, ready int32) {
	t.Helper()
	if n.Spec.Role == v1alpha1.RolePublisher {
		set := new(appsv1.StatefulSet)
		set.Namespace, set.Name = n.Namespace, n.Name
		c.get(t, set)
		set.Status.ObservedGeneration, set.Status.Replicas, set.Status.ReadyReplicas = set.Generation, desired, ready
		if err := c.Status().Update(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		return
	}
	c.setDaemonSetStatus(t, n.Namespace, n.Name, desired, ready)
}

func (c *cluster) setDaemonSetStatus(t *testing.T, namespace, name string, desired, ready int32) {
	t.Helper()
	set := new(appsv1.DaemonSet)
	set.Namespace, set.Name = namespace, name
	c.get(t, set)
	set.Status.ObservedGeneration, set.Status.DesiredNumberScheduled, set.Status.NumberReady = set.Generation, desired, ready
	if err := c.Status().Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}
