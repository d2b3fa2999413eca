package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// podIP is the address of the pod of the i-th node: none that a test uses.
func podIP(i int) string { return fmt.Sprintf("127.0.77.%d", i+2) }

// startNode declares a PyrsiaNode, runs its pod as its workload describes it,
// and returns when it is Ready.
func (s *stage) startNode(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if err := s.Create(ctx, n); err != nil {
		return err
	}
	ip := podIP(len(s.nodes))
	var template corev1.PodTemplateSpec
	err := await(ctx, time.Minute, func() (err error) { template, err = s.workloads(ctx, n, 0); return err })
	if err != nil {
		return err
	}
	if err := s.runNode(ctx, n, template, ip); err != nil {
		return err
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "node", Image: "example.com/pyrsia"}}}}
	pod.Namespace, pod.Name, pod.Labels = n.Namespace, n.Name+"-0", template.Labels
	var statuses []corev1.ContainerStatus
	for _, c := range template.Spec.Containers {
		if c.Name == "canary" { // no containerd is measured
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
			statuses = append(statuses, corev1.ContainerStatus{Name: c.Name, Ready: true})
		}
	}
	if err := s.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, ContainerStatuses: statuses, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	if err := s.Status().Update(ctx, pod); err != nil {
		return err
	}
	return await(ctx, time.Minute, func() error {
		if _, err := s.workloads(ctx, n, 1); err != nil { // which may change meanwhile
			return err
		}
		if err := s.Get(ctx, kube.ObjectKeyFromObject(n), n); err != nil {
			return err
		}
		return ready(n.Status.Conditions)
	})
}

// workloads says that so many pods of each workload of a node are ready, and
// reads the template of those that run the node.
func (s *stage) workloads(ctx context.Context, n *v1alpha1.PyrsiaNode, pods int32) (template corev1.PodTemplateSpec, err error) {
	key := kube.ObjectKeyFromObject(n)
	if n.Spec.Role == v1alpha1.RolePublisher {
		set := new(appsv1.StatefulSet)
		if err := s.Get(ctx, key, set); err != nil {
			return template, err
		}
		set.Status.ObservedGeneration, set.Status.Replicas, set.Status.ReadyReplicas = set.Generation, pods, pods
		return set.Spec.Template, s.Status().Update(ctx, set)
	}
	sets := new(appsv1.DaemonSetList)
	if err := s.List(ctx, sets, kube.InNamespace(n.Namespace)); err != nil {
		return template, err
	}
	found := false
	for _, set := range sets.Items {
		if owner := set.OwnerReferences; len(owner) == 0 || owner[0].UID != n.UID {
			continue
		}
		set.Status.ObservedGeneration, set.Status.DesiredNumberScheduled, set.Status.NumberReady = set.Generation, pods, pods
		if err := s.Status().Update(ctx, &set); err != nil {
			return template, err
		}
		if set.Name == n.Name {
			template, found = set.Spec.Template, true
		}
	}
	if !found {
		return template, fmt.Errorf("no DaemonSet %s yet", n.Name)
	}
	return template, nil
}

// runNode runs the node's container as a process: its ports are those of ip,
// its data and its Secrets are folders of this machine.
func (s *stage) runNode(ctx context.Context, n *v1alpha1.PyrsiaNode, template corev1.PodTemplateSpec, ip string) error {
	all := slices.Concat(template.Spec.InitContainers, template.Spec.Containers)
	i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == "node" })
	dir := filepath.Join(s.dir, n.Name)
	for _, m := range all[i].VolumeMounts {
		for _, v := range template.Spec.Volumes {
			if v.Name != m.Name || v.Secret == nil {
				continue
			}
			if err := s.mount(ctx, n.Namespace, v.Secret.SecretName, dir+m.MountPath); err != nil {
				return err
			}
		}
	}
	args := slices.Clone(all[i].Args)
	for j := 1; j < len(args); j++ {
		switch {
		case strings.HasPrefix(args[j], "/"):
			args[j] = dir + args[j]
		case strings.HasPrefix(args[j], "unix:"):
			args[j] = "unix:" + dir + strings.TrimPrefix(args[j], "unix:")
		case args[j-1] == "--p2p-port":
			args[j] = "0" // it is one for all addresses of this machine
		case strings.HasPrefix(args[j], ":"):
			args[j] = ip + args[j]
		case args[j-1] == "--bootstrap":
			args[j] = fmt.Sprintf("http://%s:8080", podIP(0)) // as DNS would say
		}
	}
	if err := os.MkdirAll(dir+"/data/frontend", 0o755); err != nil {
		return err
	}
	cmd, err := s.run(ctx, n.Name, "pyrsia", append(args, "--log-level", "warn")...)
	if err == nil {
		s.nodes = append(s.nodes, cmd)
	}
	return err
}

// mount writes a Secret to a folder.
func (s *stage) mount(ctx context.Context, namespace, name, dir string) error {
	secret := new(corev1.Secret)
	if err := s.Get(ctx, kube.ObjectKey{Namespace: namespace, Name: name}, secret); err != nil {
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
