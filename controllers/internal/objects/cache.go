// Package objects is what the controllers know of the cluster's objects: which of them
// and how much the cache keeps, its indexes, and the names and labels of pods and Artifacts.
// It imports the API and status. The controllers, and the packages that they share, call it.
package objects

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// What is in the cache is in the operator's memory, and anybody may make objects
// with the operator's label: of each no more is kept than the controllers read.

const (
	// MaxCached bounds the workloads and Services of PyrsiaNodes in the cache, in
	// bytes, and the status of pods. Larger ones, with long annotations or rules of
	// placement, are read from the API server when they are looked at.
	MaxCached = 32 << 10
	// maxOwnerReference and maxPath bound what is kept of what says whose an object
	// is, and where.
	maxOwnerReference = 1 << 10
	maxPath           = 1 << 10
	// MaxOwners bounds the sets and nodes that an Artifact belongs to: each is in an
	// index and is queued at each change.
	MaxOwners = 64
	// maxFinalizers bounds what is kept of an Artifact's finalizers, in bytes.
	maxFinalizers = 1 << 10
)

// annotationStripped is on what has only its identity in the cache, on Artifacts
// without their owners, and on PyrsiaNodes without their place. No other annotations
// are on that.
const annotationStripped = "pyrsia.io/stripped"

// CacheOptions keep out of the cache what the operator has not made, and the
// namespaces in which it does not work: if some are named, it works in them and in
// its own.
func CacheOptions(own string, named []string) cache.Options {
	made := func(transform func(any) (any, error)) cache.ByObject {
		return cache.ByObject{Label: apilabels.SelectorFromSet(apilabels.Set{LabelManagedBy: FieldOwner}), Transform: transform}
	}
	var namespaces map[string]cache.Config // nil: all
	for _, ns := range named {
		if namespaces == nil {
			namespaces = map[string]cache.Config{own: {}}
		}
		namespaces[ns] = cache.Config{}
	}
	return cache.Options{DefaultNamespaces: namespaces, DefaultTransform: stripMeta, ByObject: map[client.Object]cache.ByObject{
		&appsv1.StatefulSet{}:  made(stripOwned),
		&appsv1.DaemonSet{}:    made(stripOwned),
		&corev1.Service{}:      made(stripOwned),
		&corev1.Pod{}:          made(stripPod),
		&v1alpha1.Artifact{}:   {Transform: stripArtifact},
		&v1alpha1.PyrsiaNode{}: {Transform: StripNode},
		&corev1.Node{}:         {Transform: stripKubernetesNode},
	}}
}

// stripMeta takes off what no controller reads of anything.
func stripMeta(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil { // else it is the mark of one that is gone
		m.SetManagedFields(nil)
		m.SetAnnotations(nil)
		m.SetOwnerReferences(nil)
		m.SetLabels(only(m.GetLabels(), LabelMirrors))
	}
	return obj, nil
}

// StripNode leaves out what a PyrsiaNode says of its pods' place and resources if
// that is large: the API bounds neither, and an empty term of 3 bytes takes 50 here,
// and as much again in each copy.
func StripNode(obj any) (any, error) {
	obj, err := stripMeta(obj)
	if n, ok := obj.(*v1alpha1.PyrsiaNode); ok && n.Spec.Affinity.Size()+n.Spec.Resources.Size() > MaxCached {
		n.Spec.Affinity, n.Spec.Resources = nil, nil
		n.SetAnnotations(map[string]string{annotationStripped: ""})
	}
	return obj, err
}

// IsStripped tells whether an object of the cache lacks something.
func IsStripped(o client.Object) bool {
	_, stripped := o.GetAnnotations()[annotationStripped]
	return stripped
}

// stripOwned leaves of what is not made for a PyrsiaNode, of what is being deleted
// and of what is large, no more than it takes to see whose it is. Anybody can name a
// PyrsiaNode as an object's owner: what is made for one has certain names.
func stripOwned(obj any) (any, error) {
	var slim client.Object
	var suffixes []string // of the names that are made
	size := 0
	switch o := obj.(type) {
	case *appsv1.StatefulSet:
		slim, size, suffixes = new(appsv1.StatefulSet), o.Size(), []string{""}
	case *appsv1.DaemonSet:
		slim, size, suffixes = new(appsv1.DaemonSet), o.Size(), []string{"", SuffixFrontend, SuffixCleanup}
	case *corev1.Service:
		slim, size, suffixes = new(corev1.Service), o.Size(), []string{"", SuffixExposure}
	default:
		return obj, nil
	}
	o := obj.(client.Object)
	if owner := nodeOwner(o); owner != nil && size <= MaxCached && o.GetDeletionTimestamp() == nil &&
		slices.ContainsFunc(suffixes, func(suffix string) bool { return o.GetName() == owner.Name+suffix }) {
		return obj, nil
	}
	copyIdentity(slim, o)
	slim.SetAnnotations(map[string]string{annotationStripped: ""})
	return slim, nil
}

// stripPod leaves of a pod its status, its place, and what stands for its canary.
func stripPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Pod{Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName}, Status: pod.Status}
	copyIdentity(slim, pod)
	if node := NodeOf(*pod); pod.Spec.NodeName == "" && node != "" { // where a DaemonSet wants it
		slim.Spec.Affinity = affinityTo(node)
	}
	for _, c := range pod.Spec.Containers {
		if c.Name == ContainerCanary {
			slim.Spec.Containers = []corev1.Container{{Name: c.Name, Image: status.Bounded(c.Image, maxPath)}}
		}
	}
	if at := pod.Annotations[AnnotationPath]; len(at) <= maxPath {
		slim.SetAnnotations(only(pod.Annotations, AnnotationPath))
	}
	if slim.Status.Size() > MaxCached {
		slim.Status = corev1.PodStatus{}
	}
	return slim, nil
}

// stripKubernetesNode leaves of a Kubernetes node what decides which pods run there,
// what runs them, and whether it is up. Its kubelet writes the rest all the time.
func stripKubernetesNode(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	info := node.Status.NodeInfo
	slim := &corev1.Node{
		Spec: corev1.NodeSpec{Taints: node.Spec.Taints, Unschedulable: node.Spec.Unschedulable},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
			OperatingSystem: info.OperatingSystem, Architecture: info.Architecture, ContainerRuntimeVersion: info.ContainerRuntimeVersion,
		}},
	}
	copyIdentity(slim, node)
	slim.SetLabels(node.GetLabels())
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	if slim.Size() > MaxCached { // no pod placement needs so many labels
		slim.SetLabels(only(node.GetLabels(), corev1.LabelOSStable, corev1.LabelArchStable, corev1.LabelHostname))
		slim.Spec.Taints = nil
	}
	return slim, nil
}

// stripArtifact keeps fields out of the cache that are only written (proofs and
// managed fields) and excessive additions of others. What is not in the cache is
// not in a patch either.
func stripArtifact(obj any) (any, error) {
	art, ok := obj.(*v1alpha1.Artifact)
	if !ok {
		return obj, nil
	}
	art.ManagedFields, art.Annotations, art.Labels = nil, nil, nil
	if len(art.OwnerReferences) > MaxOwners || slices.ContainsFunc(art.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.Size() > maxOwnerReference }) {
		art.OwnerReferences = nil // some of them would be a lie
		art.Annotations = map[string]string{annotationStripped: ""}
	}
	for i, size := 0, 0; i < len(art.Finalizers); i++ {
		if size += len(art.Finalizers[i]); size > maxFinalizers {
			art.Finalizers = slices.Clone(art.Finalizers[:i])
		}
	}
	for _, b := range []*v1alpha1.Block{art.Status.Block, art.Status.Revocation, art.Status.Restoration} {
		if b != nil && status.IsTrue(art, v1alpha1.ConditionReady) {
			b.Entry, b.Proof, b.Checkpoint = "", "", ""
		}
	}
	shareCommon(art)
	return art, nil
}

// affinityTo is that of a DaemonSet's pod to its Kubernetes node.
func affinityTo(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}},
	}}}
}

// copyIdentity copies what tells which object it is, and whose.
func copyIdentity(to, from client.Object) {
	to.SetNamespace(from.GetNamespace())
	to.SetName(from.GetName())
	to.SetUID(from.GetUID())
	to.SetResourceVersion(from.GetResourceVersion())
	to.SetGeneration(from.GetGeneration())
	to.SetCreationTimestamp(from.GetCreationTimestamp())
	to.SetDeletionTimestamp(from.GetDeletionTimestamp())
	to.SetLabels(only(from.GetLabels(), labelName, LabelInstance, labelComponent, LabelManagedBy, appsv1.ControllerRevisionHashLabelKey))
	if owner := metav1.GetControllerOf(from); owner != nil && owner.Size() <= maxOwnerReference {
		to.SetOwnerReferences([]metav1.OwnerReference{*owner})
	}
}

// nodeOwner is the reference to the PyrsiaNode that controls an object.
func nodeOwner(o client.Object) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(o)
	if owner == nil || owner.Kind != "PyrsiaNode" || owner.APIVersion != v1alpha1.GroupVersion.String() {
		return nil
	}
	return owner
}

// only are those of some labels or annotations.
func only(all map[string]string, keys ...string) map[string]string {
	var out map[string]string
	for _, key := range keys {
		if value, ok := all[key]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = value
		}
	}
	return out
}
