package controllers_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// A publisher whose disk goes back in time is found out, and what was verified
// is kept; with its disk back it is trusted again.
func TestPublisherThatIsRolledBack(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	digest := up.push(t, "library/alpine:3.20")
	publisher := publisherNode(ns, up.URL)
	c.create(t, publisher, fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))
	pod := c.runPod(t, publisher, "")
	c.awaitCurrent(t, c.artifact(t, ns, "docker.io/library/alpine:3.20", digest))
	c.until(t, publisher, func() error {
		return errorIf(objects.LedgerSize(publisher) != 1, "the ledger has %d blocks in the status, want 1", objects.LedgerSize(publisher))
	})
	verified := publisher.Status.Ledger.DeepCopy()
	pod.stop()

	empty := c.runPod(t, publisher, "") // the same key, another disk
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionFalse, v1alpha1.ConditionLedgerRolledBack)
	if !equality.Semantic.DeepEqual(publisher.Status.Ledger, verified) {
		t.Errorf("status.ledger changed to %+v", publisher.Status.Ledger)
	}
	c.hasEvents(t, ns, v1alpha1.ConditionLedgerRolledBack)
	empty.stop()

	c.runPod(t, publisher, pod.data)
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
}

// A publisher that comes back with another signing key is another ledger.
func TestPublisherWithAnotherKey(t *testing.T) {
	c, ns := ownNamespace(t)
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, publisher)
	pod := c.runPod(t, publisher, "")
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	key := publisher.Status.Ledger.Key
	pod.stop()

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.SigningSecretName(publisher, 1)}}
	other := fixtures.NewBook(t)
	change(t, c, secret, func(s *corev1.Secret) { s.Data[desired.SigningKeyFile] = []byte(other.Skey) })
	c.runPod(t, publisher, "")
	c.awaitCondition(t, publisher, v1alpha1.ConditionStalled, metav1.ConditionTrue, "KeyChanged")
	if publisher.Status.Ledger.Key != key {
		t.Error("the pinned key changed")
	}
}

// An object that happens to have the desired name is not taken over.
func TestForeignObjectIsLeftAlone(t *testing.T) {
	c, ns := ownNamespace(t)
	foreign := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "publisher"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, foreign, publisher)
	c.awaitCondition(t, publisher, v1alpha1.ConditionWorkloadReady, metav1.ConditionFalse, "NameConflict")
	c.get(t, foreign)
	if len(foreign.OwnerReferences) > 0 || foreign.Spec.Ports[0].Port != 80 {
		t.Errorf("the Service was taken over: %+v", foreign)
	}
}

// A mirror that goes gives each Kubernetes node its containerd set-up back
// before it is gone.
func TestMirrorIsCleanedUp(t *testing.T) {
	c, ns := ownNamespace(t)
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	c.create(t, publisher, mirror)
	c.runPod(t, publisher, "")
	c.awaitTemplate(t, mirror)
	c.delete(t, mirror)
	cleanup := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.CleanupName(mirror)}}
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup) })
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(mirror), new(appsv1.DaemonSet)); !apierrors.IsNotFound(err) {
		t.Errorf("the mirror runs while it is cleaned up: %v", err)
	}
	c.setDaemonSetStatus(t, ns, cleanup.Name, 3, 2)
	time.Sleep(time.Second)
	c.get(t, mirror) // one Kubernetes node is not done
	c.setDaemonSetStatus(t, ns, cleanup.Name, 3, 3)
	c.awaitGone(t, mirror, cleanup)
}

// The samples are accepted as they stand.
func TestSamples(t *testing.T) {
	c, ns := ownNamespace(t)
	files, err := filepath.Glob("../config/samples/*.yaml")
	must(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		if strings.HasSuffix(file, "kustomization.yaml") {
			continue
		}
		obj := decode(t, c, data)
		obj.SetNamespace(ns)
		c.create(t, obj)
	}
}
