package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// A namespace that enforces the Pod Security Standard "restricted" admits the
// pods of a publisher, whatever its settings; a mirror's pods touch the host.
func TestRestrictedNamespaceAdmitsPublishers(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-restricted-", Labels: map[string]string{
		objects.LabelMirrors: objects.MirrorsAllowed, "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest",
	}}}
	c.create(t, ns)
	plain, full, mirror := publisherNode(ns.Name, "http://127.0.0.1:1"), publisherNode(ns.Name, "http://127.0.0.1:1"), mirrorNode(ns.Name)
	full.Name = "full"
	full.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureLoadBalancer}}
	full.Spec.Publisher.Upstreams[0].CredentialsSecretRef = &v1alpha1.LocalReference{Name: "login"}
	full.Spec.Publisher.RestoreFrom = &v1alpha1.RestoreFrom{URLs: []string{"http://mirror.example:8080"}}
	full.Spec.Publisher.OnPull = &v1alpha1.OnPull{Policy: v1alpha1.OnPullPublish, Allow: []string{"docker.io/library/*"}}
	mirror.Spec.Network = &v1alpha1.Network{LedgerKey: fixtures.NewBook(t).Key,
		Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"}}
	c.create(t, plain, full, mirror)
	for _, n := range []*v1alpha1.PyrsiaNode{plain, full, mirror} {
		template := c.awaitTemplate(t, n)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: n.Name + "-admitted"}, Spec: template.Spec}
		if n.Spec.Role == v1alpha1.RolePublisher { // as the StatefulSet's controller adds it
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + n.Name + "-0"}}})
		}
		err := c.Create(t.Context(), pod)
		if n.Spec.Role == v1alpha1.RolePublisher && err != nil {
			t.Errorf("the pod of %s: %v", n.Name, err)
		}
		if n.Spec.Role == v1alpha1.RoleMirror && !apierrors.IsForbidden(err) {
			t.Errorf("the pod of a mirror is not refused (%v): the namespace enforces nothing", err)
		}
	}
}
