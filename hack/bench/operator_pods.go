package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// runPod does what a kubelet and the controllers of workloads would do: it runs
// the node's container as a process at an address of this machine.
func (b *operatorBench) runPod(ctx context.Context, n *v1alpha1.PyrsiaNode, ip string) error {
	var template corev1.PodTemplateSpec
	err := waitFor(ctx, time.Minute, func() (err error) { template, err = b.workload(ctx, n, 0); return err })
	if err != nil {
		return err
	}
	if err := b.runNode(ctx, n, template, ip); err != nil {
		return err
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name + "-0", Labels: template.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: "pyrsia"}}},
	}
	if err := b.client.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if err := b.client.Status().Update(ctx, pod); err != nil {
		return err
	}
	_, err = b.workload(ctx, n, 1)
	return err
}

// workload reads the pods' template, and says that so many pods are ready.
func (b *operatorBench) workload(ctx context.Context, n *v1alpha1.PyrsiaNode, ready int32) (template corev1.PodTemplateSpec, err error) {
	key := kube.ObjectKeyFromObject(n)
	if n.Spec.Role == v1alpha1.RolePublisher {
		set := new(appsv1.StatefulSet)
		if err := b.client.Get(ctx, key, set); err != nil {
			return template, err
		}
		set.Status.ObservedGeneration, set.Status.Replicas, set.Status.ReadyReplicas = set.Generation, ready, ready
		return set.Spec.Template, b.client.Status().Update(ctx, set)
	}
	set := new(appsv1.DaemonSet)
	if err := b.client.Get(ctx, key, set); err != nil {
		return template, err
	}
	set.Status.ObservedGeneration, set.Status.DesiredNumberScheduled, set.Status.NumberReady = set.Generation, ready, ready
	return set.Spec.Template, b.client.Status().Update(ctx, set)
}

// runNode starts the node's container as a process: its ports are those of ip,
// its data and Secrets are folders of this machine.
func (b *operatorBench) runNode(ctx context.Context, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, ip string) error {
	all := slices.Concat(template.Spec.InitContainers, template.Spec.Containers)
	i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == "node" })
	dir := filepath.Join(b.dir, n.Name)
	for _, m := range all[i].VolumeMounts {
		for _, v := range template.Spec.Volumes {
			if v.Name != m.Name || v.Secret == nil {
				continue
			}
			if err := b.mount(ctx, n.Namespace, v.Secret.SecretName, dir+m.MountPath); err != nil {
				return err
			}
		}
	}
	args := slices.Clone(all[i].Args)
	for j := 1; j < len(args); j++ {
		switch {
		case strings.HasPrefix(args[j], "/"):
			args[j] = dir + args[j]
		case args[j-1] == "--p2p-port":
			args[j] = "0"
		case strings.HasPrefix(args[j], ":"):
			args[j] = ip + args[j]
		case args[j-1] == "--bootstrap":
			args[j] = "http://127.0.3.1:8080" // the publisher's, as DNS would say
		}
	}
	if err := os.MkdirAll(dir+"/data", 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, os.Getenv("PYRSIA_BINARY"), append(args, "--log-level", "warn")...)
	b.nodes = append(b.nodes, cmd)
	return b.begin(cmd, n.Name)
}

func (b *operatorBench) mount(ctx context.Context, namespace, name, dir string) error {
	secret := new(corev1.Secret)
	if err := b.client.Get(ctx, kube.ObjectKey{Namespace: namespace, Name: name}, secret); err != nil {
		return fmt.Errorf("mounting Secret %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for key, value := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, key), value, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// unversioned is a configuration for paths outside of the API groups.
func unversioned(c *rest.Config) *rest.Config {
	out := rest.CopyConfig(c)
	out.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return out
}
