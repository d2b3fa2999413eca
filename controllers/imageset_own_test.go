package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

const somebodysFinalizer = "example.com/mine"

// keepAndDelete has a finalizer keep an object that is deleted.
func (c *cluster) keepAndDelete(t *testing.T, art *v1alpha1.Artifact) {
	t.Helper()
	change(t, c, art, func(a *v1alpha1.Artifact) { a.Finalizers = []string{somebodysFinalizer} })
	t.Cleanup(func() { _ = c.letGo(art) })
	c.delete(t, art)
}

func (c *cluster) letGo(art *v1alpha1.Artifact) error {
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`))
	return client.IgnoreNotFound(c.Patch(context.Background(), art, patch))
}

// A set counts what it makes itself. That it is named as an Artifact's owner
// proves nothing.
func TestForgedArtifactsCountForNothing(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d, gone := up.push(t, "library/alpine:3.20"), up.push(t, "library/alpine:3.19")
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, set) // and waits for its publisher
	few := ownedByHand(fixtures.Artifact(ns, "few", "docker.io/library/alpine:3.20", d), set)
	few.Spec.Platforms = []string{"linux/amd64"}
	lookup := ownedByHand(fixtures.Artifact(ns, "lookup", "docker.io/library/alpine:3.20", d), set)
	lookup.Spec.PublisherRef, lookup.Spec.NodeRef = v1alpha1.LocalReference{}, lookup.Spec.PublisherRef
	other := ownedByHand(fixtures.Artifact(ns, "other", "docker.io/library/alpine:3.19", gone), set)
	c.create(t, few, lookup, other)
	c.aPublisher(t, ns, up.URL)
	c.awaitCurrent(t, set)
	own := fixtures.Artifact(ns, objects.ArtifactName("docker.io/library/alpine:3.20", d), "", "")
	c.get(t, own)
	c.awaitCurrent(t, own)
	if len(own.Status.Platforms) != 2 {
		t.Errorf("the set's Artifact has the platforms %v", own.Status.Platforms)
	}
	for _, forged := range []*v1alpha1.Artifact{few, lookup, other} {
		c.awaitCurrent(t, forged) // it is somebody's, and none of the set's business
	}
	time.Sleep(4 * time.Second) // events of a set are gathered for two
	if c.get(t, set); set.Status.Blocks != 1 || set.Status.Published != 1 || set.Status.Desired != 1 {
		t.Errorf("the set counts what is not its own: %+v", set.Status)
	}
	for _, forged := range []*v1alpha1.Artifact{few, lookup, other} {
		c.get(t, forged) // nor is it the set's to delete
	}
}

// An Artifact that is being deleted, and that somebody's finalizer keeps, is a
// failure which says what to do, and is not deleted over and over. When it is
// gone the set goes on.
func TestArtifactThatDoesNotGoIsAFailure(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	a, b := up.push(t, "library/a:1"), up.push(t, "library/b:1")
	c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "a", Tags: []string{"1"}}, v1alpha1.ImageTags{Repository: "b", Tags: []string{"1"}})
	c.create(t, set)
	c.awaitCurrent(t, set)
	wanted, unwanted := c.artifact(t, ns, "docker.io/library/a:1", a), c.artifact(t, ns, "docker.io/library/b:1", b)
	c.keepAndDelete(t, wanted)
	c.keepAndDelete(t, unwanted)
	change(t, c, set, func(s *v1alpha1.OfficialImageSet) { s.Spec.Images = s.Spec.Images[:1] }) // without b
	got := c.awaitCondition(t, set, v1alpha1.ConditionReady, metav1.ConditionFalse, "ArtifactTerminating")
	for _, what := range []string{wanted.Name, somebodysFinalizer, "kubectl patch artifact"} {
		if !strings.Contains(got.Message, what) {
			t.Errorf("the message lacks %q: %s", what, got.Message)
		}
	}
	if f := set.Status.Failures; len(f) != 1 || f[0].Reason != "ArtifactTerminating" || set.Status.Failed != 1 {
		t.Errorf("failures: %+v", set.Status)
	}
	writes := c.writes.during(ns, func() { time.Sleep(15 * time.Second) }) // more than a pass
	if i := slices.IndexFunc(writes, func(w string) bool { return strings.Contains(w, "artifacts/") }); i >= 0 {
		t.Errorf("what is being deleted already is written:\n%s", strings.Join(writes, "\n"))
	}
	must(t, errors.Join(c.letGo(wanted), c.letGo(unwanted)))
	c.awaitCurrent(t, set)
	again := c.artifact(t, ns, "docker.io/library/a:1", a)
	if again.UID == wanted.UID {
		t.Error("the Artifact was not made again")
	}
}

// An Artifact of a set that is being deleted, and kept by a finalizer, still
// shows that its image is withdrawn and still withdraws it; but it publishes
// nothing.
func TestArtifactThatDoesNotGoIsStillWithdrawn(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d := up.push(t, "library/app:1")
	up.retag(t, "library/app:1", "library/app:2")
	other := up.push(t, "library/other:1")
	const app, otherImage = "docker.io/library/app:", "docker.io/library/other:1"
	late := fixtures.Artifact(ns, "late", "docker.io/library/late:1", up.push(t, "library/late:1"))
	c.create(t, late) // there is no publisher yet
	c.awaitCondition(t, late, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "")
	c.keepAndDelete(t, late)
	c.aPublisher(t, ns, up.URL)
	one, two, three := fixtures.Artifact(ns, "one", app+"1", d), fixtures.Artifact(ns, "two", app+"2", d), fixtures.Artifact(ns, "three", otherImage, other)
	c.create(t, one, two, three)
	for _, art := range []*v1alpha1.Artifact{one, two, three} {
		c.awaitCurrent(t, art)
	}
	c.keepAndDelete(t, two)
	c.keepAndDelete(t, three)
	withdraw := func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" }
	change(t, c, one, withdraw)
	change(t, c, three, withdraw)
	c.awaitCondition(t, two, v1alpha1.ConditionReady, metav1.ConditionFalse, "Revoked")
	c.awaitCondition(t, three, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	change(t, c, one, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRestored, "a false alarm" })
	c.awaitCondition(t, one, v1alpha1.ConditionRestored, metav1.ConditionTrue, "Restored")
	c.awaitCondition(t, two, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "Terminating")
	got := c.awaitCondition(t, late, v1alpha1.ConditionPublished, metav1.ConditionUnknown, "Terminating")
	if !strings.Contains(got.Message, "is being deleted") || late.Status.Block != nil {
		t.Errorf("%s: %+v", got.Message, late.Status.Block)
	}
}

// With deletionPolicy Delete only content that nothing else needs is deleted:
// not that of a user's Artifact in any namespace, and not that of Artifacts
// whose owner reference to the set is forged.
func TestDeletionKeepsWhatOthersWant(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	ns, elsewhere := c.namespace(t), c.namespace(t)
	registry := upstreamtest.New()
	digests := map[string]string{}
	for _, name := range []string{"alone", "byhand", "elsewhere", "others", "both"} {
		index := registry.AddIndex(registry.AddImage(upstreamtest.Platform{OS: "linux", Architecture: "amd64"}, name, []byte("layer of "+name)))
		registry.Tag("library/"+name, "1", index)
		digests[name] = index.String()
	}
	server := httptest.NewServer(registry)
	defer server.Close()
	p := c.aPublisher(t, ns, server.URL)
	tags := func(names ...string) (out []v1alpha1.ImageTags) {
		for _, name := range names {
			out = append(out, v1alpha1.ImageTags{Repository: name, Tags: []string{"1"}})
		}
		return out
	}
	one := fixtures.ImageSet(ns, time.Hour, tags("alone", "byhand", "elsewhere", "both")...)
	two := fixtures.ImageSet(ns, time.Hour, tags("both")...)
	one.Spec.DeletionPolicy, two.Spec.DeletionPolicy, two.Name = v1alpha1.DeletionDelete, v1alpha1.DeletionDelete, "too"
	c.create(t, one, two)
	image := func(name string) string { return "docker.io/library/" + name + ":1" }
	kept := fixtures.Artifact(ns, "kept", image("byhand"), digests["byhand"])
	foreign := fixtures.Artifact(elsewhere, "foreign", image("elsewhere"), digests["elsewhere"]) // it waits for its publisher
	others := fixtures.Artifact(ns, "others", image("others"), digests["others"])
	c.create(t, kept, foreign, others)
	for _, obj := range []status.Object{one, two, kept, others} {
		c.awaitCurrent(t, obj)
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(p.data, "store", "blobs", "sha256", digest.FromString("layer of "+name).Encoded()))
		return err == nil
	}
	c.create(t, ownedByHand(fixtures.Artifact(ns, "forged", image("others"), digests["others"]), one)) // a moment before
	for _, set := range []*v1alpha1.OfficialImageSet{one, two} {                                       // that go together do not wait for each other
		c.delete(t, set)
	}
	for _, set := range []*v1alpha1.OfficialImageSet{one, two} {
		c.awaitGone(t, set)
	}
	for name, want := range map[string]bool{"alone": false, "byhand": true, "elsewhere": true, "others": true, "both": false} {
		if has(name) != want {
			t.Errorf("the content of %s is there: %v, want %v", name, has(name), want)
		}
	}
}

// An Artifact may name thousands of owners, each of which is looked up by an
// index. A set neither counts one of these nor adds to its owners.
func TestArtifactsOfManyOwners(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	d := up.push(t, "library/alpine:3.20")
	const image = "docker.io/library/alpine:3.20"
	many, full := fixtures.Artifact(ns, objects.ArtifactName(image, d), image, d), fixtures.Artifact(ns, objects.ArtifactName(image, d), image, d)
	owners := func(n int) (refs []metav1.OwnerReference) {
		for i := range n {
			refs = append(refs, metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "OfficialImageSet", Name: fmt.Sprint("set-", i), UID: types.UID(fmt.Sprint(i))})
		}
		return refs
	}
	c.aPublisher(t, ns, up.URL)
	for _, tc := range []struct {
		art  *v1alpha1.Artifact
		have int
	}{{many, objects.MaxOwners + 1}, {full, objects.MaxOwners}} {
		tc.art.OwnerReferences = owners(tc.have)
		set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
		c.create(t, tc.art, set)
		c.until(t, set, func() error {
			f := set.Status.Failures
			return errorIf(len(f) != 1 || f[0].Reason != "NameConflict" || !strings.Contains(f[0].Message, "owners"), "the set's failures are %+v", f)
		})
		if c.get(t, tc.art); len(tc.art.OwnerReferences) != tc.have {
			t.Errorf("the Artifact of %d owners has %d", tc.have, len(tc.art.OwnerReferences))
		}
		if tc.have > objects.MaxOwners { // once somebody mends it
			change(t, c, tc.art, func(a *v1alpha1.Artifact) { a.OwnerReferences = owners(1) })
			c.awaitCurrent(t, set)
		}
		must(t, errors.Join(c.Delete(t.Context(), set), c.Delete(t.Context(), tc.art)))
	}
}
