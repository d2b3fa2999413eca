package controllers_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/artifact"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A digest is withdrawn under all its tags: each Artifact of it says so, and a
// new one is refused and says why. Restored brings all of them back.
func TestWithdrawnDigests(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d := up.push(t, "library/app:1")
	up.retag(t, "library/app:1", "library/app:2")
	up.retag(t, "library/app:1", "library/app:3")
	other := up.push(t, "library/other:1")
	c.aPublisher(t, ns, up.URL)
	const app = "docker.io/library/app:"
	one, two := fixtures.Artifact(ns, "one", app+"1", d), fixtures.Artifact(ns, "two", app+"2", d)
	unrelated := fixtures.Artifact(ns, "unrelated", "docker.io/library/other:1", other)
	c.create(t, one, two, unrelated)
	for _, art := range []*v1alpha1.Artifact{one, two, unrelated} {
		c.awaitCurrent(t, art)
	}
	first := two.Status.Block.Height

	change(t, c, one, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	revoked := c.awaitCondition(t, one, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	c.awaitCurrent(t, one)
	if !strings.Contains(revoked.Message, app+"2") {
		t.Errorf("what else has the digest is not said: %s", revoked.Message)
	}
	c.awaitCondition(t, two, v1alpha1.ConditionReady, metav1.ConditionFalse, "Revoked")
	three := fixtures.Artifact(ns, "three", app+"3", d)
	c.create(t, three)
	refused := c.awaitCondition(t, three, v1alpha1.ConditionPublished, metav1.ConditionFalse, "Revoked")
	if !strings.Contains(refused.Message, "it has a backdoor") {
		t.Errorf("why is not said: %s", refused.Message)
	}

	change(t, c, one, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRestored, "a false alarm" })
	c.awaitCondition(t, one, v1alpha1.ConditionRestored, metav1.ConditionTrue, "Restored")
	for _, art := range []*v1alpha1.Artifact{one, two, three} {
		c.awaitCurrent(t, art)
		if art.Status.Block == nil || art.Status.Block.Height <= one.Status.Restoration.Height || art.Status.Revocation != nil {
			t.Errorf("%s is block %+v, withdrawn by %+v", art.Name, art.Status.Block, art.Status.Revocation)
		}
	}
	if two.Status.Block.Height == first {
		t.Error("the withdrawn block is shown as the restored one's")
	}

	change(t, c, two, func(a *v1alpha1.Artifact) {
		a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has one after all"
	})
	for _, art := range []*v1alpha1.Artifact{one, three} {
		c.awaitCondition(t, art, v1alpha1.ConditionReady, metav1.ConditionFalse, "Revoked")
	}
	c.awaitCurrent(t, unrelated)
}

// An unpublished digest can be withdrawn in advance, and so can one platform of
// an image.
func TestWithdrawnBeforeItIsPublished(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d := up.push(t, "library/app:1")
	c.aPublisher(t, ns, up.URL)
	ban := fixtures.Artifact(ns, "ban", "docker.io/library/app:any", d)
	ban.Spec.State, ban.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor"
	c.create(t, ban)
	c.awaitCurrent(t, ban)
	if ban.Status.Revocation == nil || ban.Status.Block != nil {
		t.Errorf("withdrawn by %+v, published as %+v", ban.Status.Revocation, ban.Status.Block)
	}
	art := fixtures.Artifact(ns, "app", "docker.io/library/app:1", d)
	c.create(t, art)
	c.awaitCondition(t, art, v1alpha1.ConditionPublished, metav1.ConditionFalse, "Revoked")
}

// To restore an image takes the right to do so, and not only to change Artifacts.
func TestRestoringNeedsARightOfItsOwn(t *testing.T) {
	c, ns := ownNamespace(t)
	for user, verbs := range map[string][]any{"editor": {"create", "update", "get"}, "restorer": {"create", "update", "get", "restore"}} {
		c.grant(t, ns, user, verbs)
	}
	art := fixtures.Artifact(ns, "app", "docker.io/library/app:1", "sha256:"+strings.Repeat("0", 64))
	c.create(t, art)
	try := func(user string, state v1alpha1.ArtifactState) error {
		changed := art.DeepCopy()
		if err := c.as(t, user).Get(t.Context(), client.ObjectKeyFromObject(art), changed); err != nil {
			return err
		}
		changed.Spec.State, changed.Spec.Reason = state, "because"
		made := fixtures.Artifact(ns, "made-by-"+user, changed.Spec.Image, changed.Spec.Digest)
		made.Spec.State, made.Spec.Reason = state, "because"
		return errors.Join(c.as(t, user).Update(t.Context(), changed, client.DryRunAll), c.as(t, user).Create(t.Context(), made, client.DryRunAll))
	}
	eventually(t, func() error {
		return errors.Join(try("editor", v1alpha1.StateRevoked), try("restorer", v1alpha1.StateRevoked), try("restorer", v1alpha1.StateRestored))
	})
	eventually(t, func() error { // the API server has its policies a moment after its start
		err := try("editor", v1alpha1.StateRestored)
		return errorIf(err == nil || strings.Count(err.Error(), `needs the verb "restore"`) != 2, "without the right: %v", err)
	})
}

// The Artifact that withdrew a digest may be gone before others were told of it: it
// was deleted while the publisher withdrew, or the cluster is that of an older backup.
// They ask the ledger themselves, each at its own time.
func TestWithdrawnByAnArtifactThatIsGone(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d := up.push(t, "library/app:1")
	c.aPublisher(t, ns, up.URL)
	one := fixtures.Artifact(ns, "one", "docker.io/library/app:1", d)
	c.create(t, one)
	c.awaitCurrent(t, one)
	nodes := nodesOf(t, c)
	must(t, nodes.AskPublisher(t.Context(), ns, "publisher", nodeclient.ToWithdraw, func(ctx context.Context, _ *v1alpha1.PyrsiaNode, c *control.Client) error {
		_, err := c.Revoke(ctx, control.RevokeRequest{Image: one.Spec.Image, Digest: d, Block: -1, Reason: "it has a backdoor"})
		return err
	}))
	for name, change := range map[string]func(*v1alpha1.Artifact){
		"published": func(*v1alpha1.Artifact) {},
		"restored": func(a *v1alpha1.Artifact) {
			a.Spec.State, a.Spec.Reason = v1alpha1.StateRestored, "a false alarm"
			status.SetDone(a, v1alpha1.ConditionRestored, "Restored", "")
		},
		"leaving": func(a *v1alpha1.Artifact) { a.DeletionTimestamp = new(metav1.Now()) },
	} {
		art, now := one.DeepCopy(), time.Now()
		change(art)
		r := &artifact.Reconciler{Client: c, Nodes: nodes, Now: func() time.Time { return now }}
		steps := r.Steps(art)
		last := steps[len(steps)-1]
		var errs []error
		for range 3 { // its turn, and once more if that has just begun to be over
			wait, err := last(t.Context(), art)
			if errs = append(errs, err); err != nil {
				break
			}
			now = now.Add(wait)
		}
		if !errors.Is(errors.Join(errs...), reconcile.TerminalError(nil)) || status.IsTrue(art, v1alpha1.ConditionVerified) || !status.IsTrue(art, v1alpha1.ConditionRevoked) {
			t.Errorf("%s: it goes on as if nothing was withdrawn: %v\n%s", name, errs, conditionsText(art.Status.Conditions))
		}
		if _, err := last(t.Context(), art); !errors.Is(err, reconcile.TerminalError(nil)) {
			t.Errorf("%s: it is forgotten again: %v", name, err)
		}
	}
}
