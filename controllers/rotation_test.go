package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/artifact"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// pair runs a publisher and its mirror, which both have alpine:3.20; a tag that
// moves is seen within seconds.
func (c *cluster) pair(t *testing.T, up *upstream) (publisher, mirror *v1alpha1.PyrsiaNode, pod, follower *pod) {
	t.Helper()
	ns := c.namespace(t)
	first := up.push(t, "library/alpine:3.20")
	publisher, mirror = publisherNode(ns, up.URL), mirrorNode(ns)
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, publisher, mirror, set)
	pod, follower = c.runPod(t, publisher, ""), c.runPod(t, mirror, "")
	c.awaitCurrent(t, c.artifact(t, ns, "docker.io/library/alpine:3.20", first))
	c.awaitCurrent(t, mirror)
	return publisher, mirror, pod, follower
}

// One field hands a ledger over to another key, and all that trust the previous
// one follow: the operator, the mirrors, and earlier proofs.
func TestSigningKeyIsRotatedByOneField(t *testing.T) {
	t.Parallel()
	c, up := testCluster(t), newUpstream(t)
	publisher, mirror, pod, follower := c.pair(t, up)
	ns := publisher.Namespace
	c.get(t, publisher)
	before := publisher.Status.Ledger.Key

	c.change(t, publisher, func(s *v1alpha1.PyrsiaNodeSpec) { s.Publisher.KeyGeneration = 2 })
	c.awaitArgument(t, publisher, "--next-signing-key")
	pod.stop()
	pod = c.runPod(t, publisher, pod.data) // both keys sign
	c.until(t, publisher, func() error {
		got := publisher.Status.KeyGeneration
		return errorIf(got != 2, "the key that signs is of generation %d", got)
	})
	eventually(t, func() error {
		args := nodeContainerOf(c.awaitTemplate(t, publisher)).Args
		return errorIf(slices.Contains(args, "--next-signing-key"), "the first key still signs: %q", args)
	})
	pod.stop()
	c.runPod(t, publisher, pod.data) // the second key alone
	c.until(t, publisher, func() error {
		return errorIf(publisher.Status.Ledger.Key == before || !status.IsTrue(publisher, v1alpha1.ConditionLedgerVerified), "the key is still %s:\n%s", publisher.Status.Ledger.Key, conditionsText(publisher.Status.Conditions))
	})
	c.hasEvents(t, ns, "KeyRotated")
	c.setWorkloadStatus(t, mirror, 1, 1) // its pod gets the second key, and is not replaced
	second := up.push(t, "library/alpine:3.20")
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", second)
	c.awaitCurrent(t, art)
	verifyOffline(t, publisher.Status.Ledger.Key, art)
	follower.stop()
	c.runPod(t, mirror, follower.data) // and now it is
	c.awaitCondition(t, mirror, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	for _, alarm := range v1alpha1.NodeAlarms {
		if meta.FindStatusCondition(publisher.Status.Conditions, alarm) != nil || meta.FindStatusCondition(mirror.Status.Conditions, alarm) != nil {
			t.Errorf("a rotation raised %s", alarm)
		}
	}
}

// remembering shows a PyrsiaNode as it was.
type remembering struct {
	client.Reader
	node *v1alpha1.PyrsiaNode
}

func (r remembering) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if n, ok := obj.(*v1alpha1.PyrsiaNode); ok && key == client.ObjectKeyFromObject(r.node) {
		r.node.DeepCopyInto(n)
		return nil
	}
	return r.Reader.Get(ctx, key, obj, opts...)
}

// What was withdrawn under one key is restored while two sign, and when the next
// one signs alone, also before the status has followed it.
func TestImagesAreRestoredAcrossARotation(t *testing.T) {
	t.Parallel()
	c, up := testCluster(t), newUpstream(t)
	ns := c.namespace(t)
	one := fixtures.Artifact(ns, "one", "docker.io/library/one:1", up.push(t, "library/one:1"))
	two := fixtures.Artifact(ns, "two", "docker.io/library/two:1", up.push(t, "library/two:1"))
	publisher := publisherNode(ns, up.URL)
	c.create(t, publisher, one, two)
	pod := c.runPod(t, publisher, "")
	// to has an Artifact get into a state, and checks the block that does it by the
	// newest key alone.
	to := func(art *v1alpha1.Artifact, state v1alpha1.ArtifactState, reason string) {
		t.Helper()
		change(t, c, art, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = state, reason })
		c.until(t, art, func() error {
			return errorIf(art.Status.ObservedGeneration != art.Generation || !status.IsTrue(art, v1alpha1.ConditionReady) || !status.IsTrue(art, string(state)), "%s is not %s:\n%s", art.Name, state, conditionsText(art.Status.Conditions))
		})
		c.get(t, publisher)
		key := nodeclient.NewestKey(publisher.Status.Ledger)
		var err error
		if state == v1alpha1.StateRestored {
			b := art.Status.Restoration
			_, _, err = nodeclient.VerifyRestoration(key, art, control.Block{Height: b.Height, Entry: b.Entry, Proof: b.Proof})
		} else {
			b := art.Status.Revocation
			_, err = nodeclient.VerifyRevocation(key, art, control.Block{Height: b.Height, Entry: b.Entry, Proof: b.Proof})
		}
		if err != nil {
			t.Errorf("%s of %s is not proven by %s: %v", state, art.Name, key, err)
		}
	}
	c.awaitCurrent(t, one)
	c.awaitCurrent(t, two)
	to(one, v1alpha1.StateRevoked, "it has a backdoor")
	to(two, v1alpha1.StateRevoked, "it has a backdoor")

	c.change(t, publisher, func(s *v1alpha1.PyrsiaNodeSpec) { s.Publisher.KeyGeneration = 2 })
	c.awaitArgument(t, publisher, "--next-signing-key")
	pod.stop()
	pod = c.runPod(t, publisher, pod.data) // both keys sign
	c.until(t, publisher, func() error {
		return errorIf(publisher.Status.KeyGeneration != 2, "the key that signs is of generation %d", publisher.Status.KeyGeneration)
	})
	both := publisher.DeepCopy()
	if l := both.Status.Ledger; l.NewestKey == "" || l.NewestKey == l.Key {
		t.Fatalf("both keys sign, and the status says %+v", l)
	}
	to(one, v1alpha1.StateRestored, "a false alarm")
	to(one, v1alpha1.StateRevoked, "it has one after all")

	eventually(t, func() error {
		args := nodeContainerOf(c.awaitTemplate(t, publisher)).Args
		return errorIf(slices.Contains(args, "--next-signing-key"), "the first key still signs: %q", args)
	})
	pod.stop()
	c.runPod(t, publisher, pod.data) // the second key alone
	r := &artifact.Reconciler{Client: c, Nodes: nodesOf(t, remembering{c, both}), Now: time.Now}
	early := two.DeepCopy()
	early.Spec.State, early.Spec.Reason = v1alpha1.StateRestored, "a false alarm"
	if _, err := r.Steps(early)[0](t.Context(), early); err != nil || !status.IsTrue(early, v1alpha1.ConditionRestored) {
		t.Errorf("before the status follows: %v\n%s", err, conditionsText(early.Status.Conditions))
	}
	to(two, v1alpha1.StateRestored, "a false alarm")
	to(one, v1alpha1.StateRestored, "a false alarm")
	c.until(t, publisher, func() error {
		return errorIf(publisher.Status.Ledger.Key == both.Status.Ledger.Key, "the key is still %s", both.Status.Ledger.Key)
	})
	verifyOffline(t, publisher.Status.Ledger.Key, one)
	verifyOffline(t, publisher.Status.Ledger.Key, two)
}

// One field gives a publisher whose disk is lost its ledger back.
func TestLostPublisherIsRestored(t *testing.T) {
	t.Parallel()
	c, up := testCluster(t), newUpstream(t)
	publisher, mirror, pod, follower := c.pair(t, up)
	ns := publisher.Namespace
	pod.stop()
	empty := c.runPod(t, publisher, "")
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerRolledBack, metav1.ConditionTrue, "")
	c.hasEvents(t, ns, v1alpha1.ConditionLedgerRolledBack)
	empty.stop()

	c.change(t, publisher, func(s *v1alpha1.PyrsiaNodeSpec) {
		s.Publisher.RestoreFrom = &v1alpha1.RestoreFrom{MirrorRef: &v1alpha1.LocalReference{Name: mirror.Name}}
	})
	eventually(t, func() error {
		for _, init := range c.awaitTemplate(t, publisher).Spec.InitContainers {
			if init.Name == "restore" {
				return nil
			}
		}
		return fmt.Errorf("no init container restores the ledger")
	})
	c.runPod(t, publisher, "") // another empty disk
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	follower.stop() // there is no DNS that leads it to the publisher's new address
	c.runPod(t, mirror, follower.data)
	second := up.push(t, "library/alpine:3.20")
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", second)
	c.awaitCurrent(t, art)
	if art.Status.Block.Height != 1 {
		t.Errorf("the next block is %d, want 1", art.Status.Block.Height)
	}
	c.get(t, publisher)
	if meta.FindStatusCondition(publisher.Status.Conditions, v1alpha1.ConditionLedgerRolledBack) != nil {
		t.Error("the alarm has not ended")
	}
}

// A publisher that comes back with another ledger does not take a mirror's own
// away: the mirror goes on with what it has verified, and says what is wrong.
func TestMirrorKeepsItsLedger(t *testing.T) {
	t.Parallel()
	c, up := testCluster(t), newUpstream(t)
	publisher, mirror, pod, follower := c.pair(t, up)
	ns := publisher.Namespace
	follower.pull(t, "library/alpine:3.20")
	before, template := mirror.Status.Ledger.DeepCopy(), c.awaitTemplate(t, mirror)
	pod.stop()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.SigningSecretName(publisher, 1)}}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: publisher.Name}} // no garbage collector runs here
	service := &corev1.Service{ObjectMeta: set.ObjectMeta}
	control := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.ControlSecretName(publisher)}}
	for _, obj := range []client.Object{publisher, set, service, control, secret} {
		c.delete(t, obj)
	}
	again := publisherNode(ns, up.URL)
	c.create(t, again)
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(secret), secret) })
	c.runPod(t, again, "")
	c.awaitCurrent(t, again)

	got := c.awaitCondition(t, mirror, v1alpha1.ConditionNetworkReady, metav1.ConditionFalse, "LedgerReplaced")
	if !strings.Contains(got.Message, "put it back") {
		t.Errorf("the message does not say what to do: %s", got.Message)
	}
	c.hasEvents(t, ns, "LedgerReplaced")
	if diff := cmp.Diff(template, c.awaitTemplate(t, mirror)); diff != "" {
		t.Errorf("the mirror's pods are replaced:\n%s", diff)
	}
	if diff := cmp.Diff(before, mirror.Status.Ledger); diff != "" {
		t.Errorf("what was verified has changed:\n%s", diff)
	}
	follower.pull(t, "library/alpine:3.20")
}
