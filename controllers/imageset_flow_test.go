package controllers_test

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// aPublisher runs a publisher with an upstream, and returns its pod.
func (c *cluster) aPublisher(t *testing.T, ns, upstream string) *pod {
	t.Helper()
	publisher := publisherNode(ns, upstream)
	c.create(t, publisher)
	p := c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	return p
}

func (c *cluster) artifacts(t *testing.T, ns string) []v1alpha1.Artifact {
	t.Helper()
	list := new(v1alpha1.ArtifactList)
	must(t, c.List(t.Context(), list, client.InNamespace(ns)))
	return list.Items
}

// change updates an object, again if somebody else was faster.
func change[O client.Object](t *testing.T, c *cluster, obj O, do func(O)) {
	t.Helper()
	c.until(t, obj, func() error {
		do(obj)
		return c.Update(t.Context(), obj)
	})
}

// A dry run counts and publishes nothing; rules find the tags that are there.
func TestPlanThenPublishByRules(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	for _, tag := range []string{"3.19", "3.20", "3.21", "edge"} {
		up.push(t, "library/alpine:"+tag)
	}
	up.push(t, "library/busybox:1")
	c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, time.Hour,
		v1alpha1.ImageTags{Repository: "alpine", TagRules: v1alpha1.TagRules{Semver: ">=3.20"}},
		v1alpha1.ImageTags{Repository: "busybox", Tags: []string{"1"}})
	set.Spec.Mode = v1alpha1.SetModePlan
	c.create(t, set)
	c.awaitCurrent(t, set)
	if p := set.Status.Plan; p == nil || p.Images != 3 || p.Repositories != 2 || p.New != 3 {
		t.Errorf("plan: %+v", p)
	}
	if arts := c.artifacts(t, ns); len(arts) > 0 {
		t.Errorf("a plan made %d Artifacts", len(arts))
	}
	change(t, c, set, func(s *v1alpha1.OfficialImageSet) { s.Spec.Mode = v1alpha1.SetModePublish })
	c.awaitCondition(t, set, v1alpha1.ConditionPublished, metav1.ConditionTrue, "")
	c.awaitCurrent(t, set)
	if s := set.Status; s.Published != 3 || s.Blocks != 3 || s.Bytes == 0 || s.Progress != "100%" || s.Plan.New != 0 {
		t.Errorf("status: %+v", s)
	}
	if arts := c.artifacts(t, ns); len(arts) != 3 {
		t.Errorf("%d Artifacts", len(arts))
	}
	want := map[string]float64{
		"pyrsia_operator_imageset_images published":                 3,
		"pyrsia_operator_imageset_images pending":                   0,
		"pyrsia_operator_imageset_bytes":                            float64(set.Status.Bytes),
		"pyrsia_operator_condition OfficialImageSet True Published": 1,
		"pyrsia_operator_condition PyrsiaNode True LedgerVerified":  1,
		"pyrsia_operator_node_pods ready":                           1,
		"pyrsia_operator_node_ledger_blocks":                        3,
	}
	eventually(t, func() error { // they are of the operator's cache
		shown := c.shown(t, ns)
		maps.DeleteFunc(shown, func(metric string, _ float64) bool { _, asked := want[metric]; return !asked })
		diff := cmp.Diff(want, shown)
		return errorIf(diff != "", "metrics (-want +got):\n%s", diff)
	})
}

// shown are the metrics of a namespace's objects, by their names and the values
// of their other labels.
func (c *cluster) shown(t *testing.T, ns string) map[string]float64 {
	t.Helper()
	families, err := c.metrics.Gather()
	must(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name, ours := f.GetName(), false
			for _, l := range m.Label {
				switch l.GetName() {
				case "namespace":
					ours = l.GetValue() == ns
				case "name":
				default:
					name += " " + l.GetValue()
				}
			}
			if ours {
				out[name] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// The same image in two sets is one Artifact; it goes with the last of them.
func TestSetsShareArtifacts(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	shared := up.push(t, "library/alpine:3.20")
	up.push(t, "library/busybox:1")
	c.aPublisher(t, ns, up.URL)
	one := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}, v1alpha1.ImageTags{Repository: "busybox", Tags: []string{"1"}})
	two := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "library/alpine", Tags: []string{"3.20"}}, v1alpha1.ImageTags{Repository: "busybox", Tags: []string{"1"}})
	two.Name = "too"
	c.create(t, one, two)
	c.awaitCurrent(t, one)
	c.awaitCurrent(t, two)
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", shared)
	c.until(t, art, func() error {
		names := ownerNames(art)
		return errorIf(len(names) != 2, "the Artifact's sets are %v", names)
	})
	withoutAlpine := func(s *v1alpha1.OfficialImageSet) { s.Spec.Images = s.Spec.Images[1:] }
	change(t, c, one, withoutAlpine)
	c.until(t, art, func() error {
		names := ownerNames(art)
		return errorIf(len(names) != 1 || names[0] != two.Name, "the Artifact's sets are %v", names)
	})
	c.awaitCurrent(t, art)
	change(t, c, two, withoutAlpine)
	c.awaitGone(t, art)
}

// A revocation is a block of its own, with its proof, and the set says so.
func TestRevocation(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	first := up.push(t, "library/alpine:3.20")
	c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, set)
	c.awaitCurrent(t, set)
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", first)
	change(t, c, art, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	c.awaitCondition(t, art, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	c.awaitCurrent(t, art)
	publisher := publisherNode(ns, up.URL)
	c.get(t, publisher)
	v, err := ledger.NewVerifier(publisher.Status.Ledger.Key)
	must(t, err)
	r := art.Status.Revocation
	image, err := ledger.ParseImage(art.Spec.Image)
	must(t, err)
	target := ledger.Target{Image: image, Digest: digest.Digest(art.Spec.Digest), Block: art.Status.Block.Height}
	if _, reason, err := ledger.VerifyWithdrawal(v, []byte(r.Entry), []byte(r.Proof), target); err != nil || reason != art.Spec.Reason {
		t.Errorf("withdrawn for %q, %v", reason, err)
	}
	c.awaitCondition(t, set, v1alpha1.ConditionPublished, metav1.ConditionFalse, "ImagesFailed")
	if f := set.Status.Failures; len(f) != 1 || f[0].Reason != "Revoked" {
		t.Errorf("failures: %+v", f)
	}
	second := up.push(t, "library/alpine:3.20") // the upstream has mended it
	c.awaitCurrent(t, c.artifact(t, ns, "docker.io/library/alpine:3.20", second))
	c.awaitCondition(t, set, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
}

// With deletionPolicy Delete the content is deleted with the set, except for
// what another set holds. Credentials come from a Secret that the pod mounts.
func TestDeletionOfContentAndCredentials(t *testing.T) {
	c, ns := ownNamespace(t)
	registry := upstreamtest.New()
	registry.Username, registry.Password = "robot", "secret"
	linux := upstreamtest.Platform{OS: "linux", Architecture: "amd64"}
	registry.Tag("library/a", "1", registry.AddIndex(registry.AddImage(linux, "a", []byte("shared layer"), []byte("layer of a"))))
	registry.Tag("library/b", "1", registry.AddIndex(registry.AddImage(linux, "b", []byte("shared layer"))))
	server := httptest.NewServer(registry)
	defer server.Close()
	c.create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "login"}, Type: corev1.SecretTypeBasicAuth,
		StringData: map[string]string{"username": "robot", "password": "secret"},
	})
	publisher := publisherNode(ns, server.URL)
	publisher.Spec.Publisher.Upstreams[0].CredentialsSecretRef = &v1alpha1.LocalReference{Name: "login"}
	c.create(t, publisher)
	p := c.runPod(t, publisher, "")
	one := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "a", Tags: []string{"1"}})
	one.Spec.DeletionPolicy = v1alpha1.DeletionDelete
	two := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "b", Tags: []string{"1"}})
	two.Name = "too"
	c.create(t, one, two)
	c.awaitCurrent(t, one)
	c.awaitCurrent(t, two)
	has := func(layer string) bool {
		_, err := os.Stat(filepath.Join(p.data, "store", "blobs", "sha256", digest.FromString(layer).Encoded()))
		return err == nil
	}
	if !has("shared layer") || !has("layer of a") {
		t.Fatal("the layers are not in the publisher's store")
	}
	c.delete(t, one)
	c.awaitGone(t, one)
	if !has("shared layer") || has("layer of a") {
		t.Errorf("after the deletion: shared layer %v, layer of a %v", has("shared layer"), has("layer of a"))
	}
}

// An Artifact costs its creation, and at most two writes of its status.
func TestWritesPerArtifact(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	var tags []string
	for i := range 20 {
		tags = append(tags, fmt.Sprint(i))
		up.push(t, fmt.Sprintf("library/many:%d", i))
	}
	c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, 10*time.Second, v1alpha1.ImageTags{Repository: "many", Tags: tags})
	total := 0
	for _, line := range c.writes.during(ns, func() { c.create(t, set); c.awaitCurrent(t, set) }) {
		if strings.Contains(line, "/artifacts") || strings.Contains(line, "/events") {
			n := 0
			if _, err := fmt.Sscanf(line, "%d x", &n); err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	if total > 3*len(tags) {
		t.Errorf("%d writes for %d Artifacts", total, len(tags))
	}
	time.Sleep(4 * time.Second) // events of a set are gathered for two
	if writes := c.writes.during(ns, func() { time.Sleep(13 * time.Second) }); len(writes) > 0 {
		t.Errorf("a pass with nothing changed wrote:\n%s", strings.Join(writes, "\n"))
	}
}

func ownerNames(obj client.Object) (names []string) {
	for _, ref := range obj.GetOwnerReferences() {
		names = append(names, ref.Name)
	}
	return names
}
