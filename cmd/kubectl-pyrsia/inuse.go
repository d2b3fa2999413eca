package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/tools/pager"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/node/audit"
)

// podPage is how many pods are asked for at once.
const podPage = 500

// user is what uses an image.
type user struct {
	Namespace string `json:"namespace,omitempty"`
	// Name is of a pod, or KIND/NAME of what would make pods.
	Name string `json:"name"`
	// Container is the container's name, or "volume NAME".
	Container string `json:"container"`
}

// String is NAMESPACE/NAME.
func (u user) String() string { return strings.TrimPrefix(u.Namespace+"/"+u.Name, "/") }

// inUse collects which images are in use.
type inUse struct {
	images []audit.Image // each once
	users  [][]user      // of each image
	at     map[audit.Image]int
	pods   int
	// seen and unseen are the namespaces whose pods could be listed, and could not. Both
	// are empty where all namespaces were listed at once.
	seen, unseen []string
}

func (u *inUse) add(image audit.Image, by user) {
	at, ok := u.at[image]
	if !ok {
		if u.at == nil {
			u.at = map[audit.Image]int{}
		}
		at = len(u.images)
		u.at[image], u.images, u.users = at, append(u.images, image), append(u.users, nil)
	}
	u.users[at] = append(u.users[at], by)
}

// addPod adds the images of a pod: of its containers of all sorts and its image volumes.
// What has ended is in use no more.
func (u *inUse) addPod(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return
	}
	u.pods++
	u.addSpec(&p.Spec, &p.Status, user{Namespace: p.Namespace, Name: p.Name})
}

func (u *inUse) addSpec(spec *corev1.PodSpec, status *corev1.PodStatus, by user) {
	ids, volumes := map[string]string{}, map[string]string{}
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for _, s := range list {
			ids[s.Name] = s.ImageID
			for _, m := range s.VolumeMounts {
				if m.VolumeStatus.Image != nil {
					volumes[m.Name] = m.VolumeStatus.Image.ImageRef
				}
			}
		}
	}
	add := func(container, image string) {
		by.Container = container
		u.add(audit.Image{Name: image, ID: ids[container]}, by)
	}
	for _, c := range spec.InitContainers {
		add(c.Name, c.Image)
	}
	for _, c := range spec.Containers {
		add(c.Name, c.Image)
	}
	for _, c := range spec.EphemeralContainers {
		add(c.Name, c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil && v.Image.Reference != "" {
			by.Container = "volume " + v.Name
			u.add(audit.Image{Name: v.Image.Reference, ID: volumes[v.Name]}, by)
		}
	}
}

// listPods adds all pods of a namespace, or of all where it is empty, page by page.
func (u *inUse) listPods(ctx context.Context, c kube.Client, namespace string, selector labels.Selector) error {
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		var list corev1.PodList
		err := c.List(ctx, &list, &kube.ListOptions{Namespace: namespace, LabelSelector: selector, Limit: o.Limit, Continue: o.Continue})
		return &list, err
	})
	pages.PageSize, pages.PageBufferSize = podPage, 1
	return pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		u.addPod(o.(*corev1.Pod))
		return nil
	})
}

// listAll adds the pods of all namespaces; without the right to list them all at once,
// of those namespaces in which they can be listed.
func (u *inUse) listAll(ctx context.Context, c kube.Client, own string) error {
	err := u.listPods(ctx, c, "", nil)
	if !apierrors.IsForbidden(err) {
		return err
	}
	namespaces := []string{own}
	var list corev1.NamespaceList
	switch err := c.List(ctx, &list); {
	case err == nil:
		namespaces = nil
		for _, n := range list.Items {
			namespaces = append(namespaces, n.Name)
		}
	case !apierrors.IsForbidden(err):
		return fmt.Errorf("listing the namespaces: %w", err)
	default:
		u.unseen = append(u.unseen, "all others")
	}
	for _, namespace := range namespaces {
		switch err := u.listPods(ctx, c, namespace, nil); {
		case err == nil:
			u.seen = append(u.seen, namespace)
		case apierrors.IsForbidden(err):
			u.unseen = append(u.unseen, namespace)
		default:
			return err
		}
	}
	return nil
}

// find adds what the arguments or files name: pods, or what makes pods.
func (u *inUse) find(ctx context.Context, c *cluster, args, files []string) error {
	b := resource.NewBuilder(c.flags).Unstructured().Flatten()
	if len(files) > 0 {
		b = b.Local().FilenameParam(false, &resource.FilenameOptions{Filenames: files, Recursive: true})
	} else {
		b = b.NamespaceParam(c.namespace).DefaultNamespace().ResourceTypeOrNameArgs(true, args...)
	}
	infos, err := b.Do().Infos()
	if err != nil {
		return err
	}
	before := len(u.images)
	for _, info := range infos {
		o, ok := info.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		if err := u.addObject(ctx, c.client, o, len(files) > 0); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	if len(u.images) == before {
		return errors.New("there is no pod in it, and nothing that makes pods")
	}
	return nil
}

// addObject adds the images of an object: of the pods that it has in the cluster, or
// those that its template names where it has none.
func (u *inUse) addObject(ctx context.Context, c kube.Client, o *unstructured.Unstructured, fromFile bool) error {
	if o.GroupVersionKind().Group == "" && o.GetKind() == "Pod" {
		p := new(corev1.Pod)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, p); err != nil {
			return err
		}
		u.addPod(p)
		return nil
	}
	if selector, ok := selectorOf(o); ok && !fromFile {
		before := u.pods
		if err := u.listPods(ctx, c, o.GetNamespace(), selector); err != nil || u.pods > before {
			return err
		}
	}
	for _, path := range [][]string{{"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}, {"template", "spec"}} {
		found, ok, err := unstructured.NestedMap(o.Object, path...)
		if err != nil || !ok {
			continue // another kind of object
		}
		spec := new(corev1.PodSpec)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found, spec); err != nil {
			return err
		}
		u.addSpec(spec, new(corev1.PodStatus), user{Namespace: o.GetNamespace(), Name: o.GetKind() + "/" + o.GetName()})
		return nil
	}
	return nil
}

// selectorOf is the selector of the pods that an object has.
func selectorOf(o *unstructured.Unstructured) (labels.Selector, bool) {
	found, ok, err := unstructured.NestedMap(o.Object, "spec", "selector")
	if err != nil || !ok || len(found) == 0 {
		return nil, false
	}
	if _, ok, err := unstructured.NestedMap(o.Object, "spec", "template"); err != nil || !ok {
		return nil, false // a Service selects pods, and makes none
	}
	selector := new(metav1.LabelSelector)
	if o.GetKind() == "ReplicationController" {
		selector.MatchLabels, _, err = unstructured.NestedStringMap(o.Object, "spec", "selector")
	} else {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(found, selector)
	}
	if err != nil {
		return nil, false
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	return s, err == nil && !s.Empty()
}
