package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

func publisherNode(namespace, upstream string) *v1alpha1.PyrsiaNode {
	return &v1alpha1.PyrsiaNode{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "publisher"},
		Spec: v1alpha1.PyrsiaNodeSpec{
			Role:      v1alpha1.RolePublisher,
			Publisher: &v1alpha1.Publisher{Upstreams: []v1alpha1.Upstream{{Registry: "docker.io", Endpoint: upstream}}},
		},
	}
}

func mirrorNode(namespace string) *v1alpha1.PyrsiaNode {
	return &v1alpha1.PyrsiaNode{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mirror"},
		Spec: v1alpha1.PyrsiaNodeSpec{
			Role:    v1alpha1.RoleMirror,
			Network: &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}},
			Mirror:  &v1alpha1.Mirror{Port: 20000 + lastPort.Add(1)}, // one namespace has each
		},
	}
}

var lastPort atomic.Int32

// The whole way: a publisher, a mirror and a set of images become Artifacts
// that anyone can verify; tags that move become new ones; then all is quiet.
func TestFromImageSetToVerifiedArtifacts(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	first := up.push(t, "library/alpine:3.20")
	busybox := up.push(t, "library/busybox:1.37")

	publisher, mirror := publisherNode(ns, up.URL), mirrorNode(ns)
	set := fixtures.ImageSet(ns, 10*time.Second,
		v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}},
		v1alpha1.ImageTags{Repository: "docker.io/library/busybox", Tags: []string{"1.37"}})
	c.create(t, mirror, set, publisher) // in an order that makes all wait for each other
	c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	c.runPod(t, mirror, "")

	c.awaitCurrent(t, set)
	c.awaitCurrent(t, mirror)
	for image, digest := range map[string]string{"docker.io/library/alpine:3.20": first, "docker.io/library/busybox:1.37": busybox} {
		art := c.artifact(t, ns, image, digest)
		c.awaitCurrent(t, art)
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, art.Status.Platforms); diff != "" {
			t.Errorf("platforms of %s (-want +got):\n%s", image, diff)
		}
		c.get(t, publisher)
		verifyOffline(t, publisher.Status.Ledger.Key, art)
	}
	if set.Status.Desired != 2 || set.Status.Published != 2 || set.Status.Failed != 0 || set.Status.Pending != 0 {
		t.Errorf("the set's counts are %+v", set.Status)
	}

	second := up.push(t, "library/alpine:3.20")
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", second)
	c.awaitCurrent(t, art)
	c.awaitCurrent(t, c.artifact(t, ns, "docker.io/library/alpine:3.20", first)) // history
	c.quiet(t, ns)
	c.hasEvents(t, ns, "Published")
}

// quiet checks that nothing is written while nothing changes, and neither when
// the operator starts again.
func (c *cluster) quiet(t *testing.T, ns string) {
	t.Helper()
	set := &v1alpha1.OfficialImageSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "images"}}
	change(t, c, set, func(s *v1alpha1.OfficialImageSet) { s.Spec.Interval = &metav1.Duration{Duration: time.Hour} })
	time.Sleep(2 * time.Second) // the change of the interval is written down
	if writes := c.writes.during(ns, func() { time.Sleep(12 * time.Second) }); len(writes) > 0 {
		t.Errorf("written while nothing changed:\n%s", strings.Join(writes, "\n"))
	}
	writes := c.writes.during(ns, func() {
		c.restartOperator(t)
		time.Sleep(5 * time.Second)
	})
	if len(writes) > 0 {
		t.Errorf("written by a restart:\n%s", strings.Join(writes, "\n"))
	}
}

// artifact waits for the Artifact of an image and digest.
func (c *cluster) artifact(t *testing.T, ns, image, digest string) *v1alpha1.Artifact {
	t.Helper()
	var found *v1alpha1.Artifact
	eventually(t, func() error {
		list := new(v1alpha1.ArtifactList)
		if err := c.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Spec.Image == image && list.Items[i].Spec.Digest == digest {
				found = &list.Items[i]
				return nil
			}
		}
		return fmt.Errorf("no Artifact of %s with %s", image, digest)
	})
	return found
}

// verifyOffline is all that anyone needs to check an Artifact: the publisher's
// key, and public libraries.
func verifyOffline(t *testing.T, key string, art *v1alpha1.Artifact) {
	t.Helper()
	verifier, err := note.NewVerifier(key)
	must(t, err)
	policy := torchwood.ThresholdPolicy(2, torchwood.SingleVerifierPolicy(verifier), torchwood.OriginPolicy(verifier.Name()))
	hash := tlog.RecordHash([]byte(art.Status.Block.Entry))
	if err := torchwood.VerifyProof(policy, hash, []byte(art.Status.Block.Proof)); err != nil {
		t.Errorf("%s: %v", art.Name, err)
	}
	if got := fmt.Sprintf("%x", hash[:]); got != art.Status.Block.Hash {
		t.Errorf("%s: the block's hash is %s, the status says %s", art.Name, got, art.Status.Block.Hash)
	}
	for _, want := range []string{art.Spec.Image, art.Spec.Digest} {
		if !strings.Contains(art.Status.Block.Entry, `"`+want+`"`) {
			t.Errorf("%s: the entry does not name %s:\n%s", art.Name, want, art.Status.Block.Entry)
		}
	}
	if err := torchwood.VerifyProof(policy, tlog.RecordHash([]byte(art.Status.Block.Entry+" ")), []byte(art.Status.Block.Proof)); err == nil {
		t.Errorf("%s: a changed entry verifies", art.Name)
	}
}

func (c *cluster) hasEvents(t *testing.T, ns string, reasons ...string) {
	t.Helper()
	eventually(t, func() error {
		list := new(eventsv1.EventList)
		if err := c.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, e := range list.Items {
			seen[e.Reason] = true
		}
		var missing []error
		for _, reason := range reasons {
			if !seen[reason] {
				missing = append(missing, fmt.Errorf("no event with reason %s", reason))
			}
		}
		return errors.Join(missing...)
	})
}

// A tag that goes back to an earlier digest is published again: the newest
// block of a tag is what mirrors serve.
func TestTagThatMovesBack(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	const image = "docker.io/library/alpine:edge"
	first := up.push(t, "library/alpine:edge")
	publisher := publisherNode(ns, up.URL)
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"edge"}})
	c.create(t, publisher, set)
	c.runPod(t, publisher, "")
	before := c.artifact(t, ns, image, first)
	c.awaitCurrent(t, before)
	if cond := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionMirrored); cond.Reason != "NoMirrors" {
		t.Errorf("without mirrors the condition Mirrored is %+v", cond)
	}

	second := up.push(t, "library/alpine:edge")
	moved := c.artifact(t, ns, image, second)
	c.awaitCurrent(t, moved)
	up.retag(t, "library/alpine@"+first, "library/alpine:edge")
	eventually(t, func() error {
		again := c.artifact(t, ns, image, first)
		return errorIf(again.UID == before.UID || again.Status.Block == nil || again.Status.Block.Height <= moved.Status.Block.Height, "the Artifact of the first digest is not published again: %+v", again.Status.Block)
	})

	c.delete(t, set)
}

// The publisher's signing key survives everything.
func TestSigningKeyIsNeverReplaced(t *testing.T) {
	c, ns := ownNamespace(t)
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	mine := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.SigningSecretName(publisher, 1)},
		Data:       map[string][]byte{desired.SigningKeyFile: []byte("mine")},
	}
	c.create(t, mine, publisher)
	c.awaitTemplate(t, publisher)
	c.get(t, mine)
	if got := string(mine.Data[desired.SigningKeyFile]); got != "mine" || len(mine.OwnerReferences) > 0 {
		t.Errorf("the signing key was touched: %q, owners %v", got, mine.OwnerReferences)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: desired.ControlSecretName(publisher)}, new(corev1.Secret)); apierrors.IsNotFound(err) {
		t.Error("no control Secret")
	}
}
