package controllers

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// pair runs a publisher and its mirror, which both have alpine:3.20; a tag that
// moves is seen within seconds.
func (c *cluster) pair(t *testing.T, up *upstream) (publisher, mirror *v1alpha1.PyrsiaNode, pod, follower *pod) {
	t.Helper()
	ns := c.namespace(t)
	first := up.push(t, "library/alpine:3.20")
	publisher, mirror = publisherNode(ns, up.URL), mirrorNode(ns)
	set := imageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, publisher, mirror, set)
	pod, follower = c.runPod(t, publisher, ""), c.runPod(t, mirror, "")
	c.awaitCurrent(t, c.artifact(t, ns, "docker.io/library/alpine:3.20", first))
	c.awaitCurrent(t, mirror)
	return publisher, mirror, pod, follower
}

// One field hands a ledger over to another key, and whoever trusts the one
// before follows: the operator, the mirrors, and what was proven before.
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
	eventually(t, func() error {
		c.get(t, publisher)
		if got := publisher.Status.KeyGeneration; got != 2 {
			return fmt.Errorf("the key that signs is of generation %d", got)
		}
		return nil
	})
	eventually(t, func() error {
		if args := nodeContainerOf(c.awaitTemplate(t, publisher)).Args; slices.Contains(args, "--next-signing-key") {
			return fmt.Errorf("the first key still signs: %q", args)
		}
		return nil
	})
	pod.stop()
	c.runPod(t, publisher, pod.data) // the second key alone
	eventually(t, func() error {
		c.get(t, publisher)
		if publisher.Status.Ledger.Key == before || !isTrue(publisher, v1alpha1.ConditionLedgerVerified) {
			return fmt.Errorf("the key is still %s:\n%s", publisher.Status.Ledger.Key, conditionsText(publisher.Status.Conditions))
		}
		return nil
	})
	c.hasEvents(t, ns, "KeyRotated")
	c.setWorkloadStatus(t, mirror, 1, 1) // its pod is told of the second key, and is not replaced
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
