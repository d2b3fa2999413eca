package controllers_test

import (
	"errors"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// An object that somebody else has made, of any kind that a PyrsiaNode would
// make under that name, stays as it is; a condition says which one is in the way.
func TestForeignObjectsAreLeftAlone(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	pods := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "theirs"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "theirs", Image: "example.com/theirs"}}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}}
	daemonSet := func(name string) client.Object {
		return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}}
	}
	for name, tc := range map[string]struct {
		role      v1alpha1.Role
		theirs    client.Object
		condition string
	}{
		"Secret":               {v1alpha1.RolePublisher, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "payments-control"}, StringData: map[string]string{"password": "theirs"}}, v1alpha1.ConditionKeysReady},
		"Service":              {v1alpha1.RolePublisher, someService("payments"), v1alpha1.ConditionWorkloadReady},
		"Service outside":      {v1alpha1.RolePublisher, someService("payments-p2p"), v1alpha1.ConditionNetworkReady},
		"StatefulSet":          {v1alpha1.RolePublisher, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "payments"}, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: pods}}, v1alpha1.ConditionWorkloadReady},
		"DaemonSet":            {v1alpha1.RoleMirror, daemonSet("payments"), v1alpha1.ConditionWorkloadReady},
		"DaemonSet (frontend)": {v1alpha1.RoleMirror, daemonSet("payments-frontend"), v1alpha1.ConditionWorkloadReady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := c.namespace(t)
			tc.theirs.SetNamespace(ns)
			c.create(t, tc.theirs)
			before := tc.theirs.GetResourceVersion()
			n := publisherNode(ns, "http://127.0.0.1:1")
			n.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: v1alpha1.ExposureNodePort}}
			if tc.role == v1alpha1.RoleMirror {
				n = mirrorNode(ns)
				n.Spec.Network = &v1alpha1.Network{LedgerKey: fixtures.NewBook(t).Key,
					Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"}}
			}
			n.Name = "payments"
			c.create(t, n)
			got := c.awaitCondition(t, n, tc.condition, metav1.ConditionFalse, "NameConflict")
			c.get(t, tc.theirs)
			if tc.theirs.GetResourceVersion() != before {
				t.Errorf("their %T was changed; the condition says %q", tc.theirs, got.Message)
			}
			// It goes on by itself once that is out of the way.
			c.delete(t, tc.theirs)
			c.change(t, n, func(s *v1alpha1.PyrsiaNodeSpec) { s.PodAnnotations = map[string]string{"example.com/again": "1"} })
			c.until(t, n, func() error {
				is := meta.FindStatusCondition(n.Status.Conditions, tc.condition)
				return errorIf(is != nil && is.Reason == "NameConflict", "the conflict stays")
			})
		})
	}
}

func someService(name string) client.Object {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
}

// What somebody makes between the look and the write is not taken over either.
func TestForeignObjectsThatComeMeanwhile(t *testing.T) {
	c, ns := ownNamespace(t)
	a := apply.New(c.WithWatch, c.WithWatch)
	n := fixtures.Node(v1alpha1.RoleMirror, "payments")
	n.Namespace = ns
	in := desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: "key", Host: claimOf(n)}
	theirs := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "payments"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "theirs"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "theirs", Image: "example.com/theirs"}}}}}}

	seen := new(appsv1.DaemonSet)
	if _, err := apply.Outdated(t.Context(), a, n, seen, "DaemonSet", appsac.ExtractDaemonSet, "payments", desired.DaemonSet(n, in)); err != nil {
		t.Fatal(err)
	}
	c.create(t, theirs)
	if err := a.Apply(t.Context(), seen, desired.DaemonSet(n, in)); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating what is there: %v", err)
	}
	seen.UID = "0b9c5c1e-5d0f-4b0c-9f5b-1f6f3d1f2a3b" // one that was there, and was replaced
	if err := a.Apply(t.Context(), seen, desired.DaemonSet(n, in)); !isForeign(err) {
		t.Errorf("changing what has taken the place of the own one: %v", err)
	}
	before := theirs.ResourceVersion
	if c.get(t, theirs); theirs.ResourceVersion != before {
		t.Error("their DaemonSet was changed")
	}

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "payments-control"}, Data: map[string][]byte{"password": []byte("theirs")}}
	c.create(t, secret)
	desired := desired.ControlSecret(n, []byte("own"), []byte("operator"))
	if err := a.ApplySecret(t.Context(), n, desired); !isForeign(err) {
		t.Errorf("their Secret: %v", err)
	}
	before = secret.ResourceVersion
	if c.get(t, secret); secret.ResourceVersion != before || len(secret.Data) != 1 {
		t.Errorf("their Secret was changed: %v", secret.Data)
	}
}

func isForeign(err error) bool {
	_, ok := errors.AsType[*apply.ForeignError](err)
	return ok
}

// claimOf is what a mirror has of the Kubernetes nodes.
func claimOf(n *v1alpha1.PyrsiaNode) desired.HostClaim {
	folder := n.Spec.Storage.HostPath
	if folder == "" {
		folder = "/var/lib/pyrsia/" + n.Namespace + "_" + n.Name
	}
	return desired.HostClaim{Folder: folder, Port: desired.MirrorSpec(n).Port}
}
