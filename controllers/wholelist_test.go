package controllers_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

// The whole list of official images, from an upstream that limits, fails and
// lies: what can be published is, what cannot is named, and when nothing
// changes nothing is written. It takes minutes: `make whole-list` runs it.
func TestWholeList(t *testing.T) {
	library := os.Getenv(upstreamtest.OfficialEnv)
	if library == "" {
		t.Skip(upstreamtest.OfficialEnv + " does not name a checkout of docker-library/official-images")
	}
	c := testCluster(t)
	ns := c.namespace(t)
	const missing, corrupt, moved = 20, 5, 200
	o, err := upstreamtest.LoadOfficial(library, missing, corrupt)
	must(t, err)
	o.Trouble(4000)
	server := httptest.NewServer(o)
	defer server.Close()
	c.aPublisher(t, ns, server.URL)
	set := fixtures.ImageSet(ns, 1000*time.Hour)
	set.Spec.Catalog = &v1alpha1.Catalog{Archive: &v1alpha1.CatalogArchive{URL: server.URL + "/catalog.tar.gz", SHA256: o.SHA256()}}
	published := int32(len(o.Tags) - missing - corrupt)

	start := time.Now()
	writes := c.writes.during(ns, func() {
		c.create(t, set)
		c.awaitSet(t, set, published, missing+corrupt)
	})
	t.Logf("%d tags in %s: %s published, %d failed; %+v", len(o.Tags), time.Since(start).Round(time.Second), set.Status.Progress, set.Status.Failed, o.Counts())
	perArtifact := float64(sumWrites(t, writes)) / float64(published)
	t.Logf("%.2f API writes per Artifact", perArtifact)
	if perArtifact > 3 {
		t.Errorf("%.2f API writes per Artifact, want at most 3", perArtifact)
	}
	for _, f := range set.Status.Failures {
		tag := strings.TrimPrefix(f.Image, "docker.io/library/")
		if !(o.Missing[tag] && f.Reason == "ImageNotFound" || o.Corrupt[tag] && f.Reason == "UpstreamInvalid") {
			t.Errorf("failed wrongly: %+v", f)
		}
	}
	if got := c.publishedArtifacts(t, ns); got != int(published) {
		t.Errorf("%d Artifacts are Ready, want %d", got, published)
	}

	// A second pass with nothing changed: HEADs, and no write. The interval is
	// short for that pass alone.
	before := o.Counts()
	again := func() {
		change(t, c, set, func(s *v1alpha1.OfficialImageSet) { s.Spec.Interval = &metav1.Duration{Duration: time.Minute} })
	}
	again()
	time.Sleep(4 * time.Second) // events of a set are gathered for two
	writes = c.writes.during(ns, func() {
		eventuallyWithin(t, 10*time.Minute, func() error {
			heads := o.Counts().Head - before.Head
			return errorIf(heads < len(o.Tags), "%d HEADs of %d", heads, len(o.Tags))
		})
	})
	after := o.Counts()
	t.Logf("second pass: %d HEADs, %d manifests, %d API writes", after.Head-before.Head, after.Manifests-before.Manifests, sumWrites(t, writes))
	if len(writes) > 0 || after.Manifests > before.Manifests {
		t.Errorf("a pass with nothing changed fetched %d manifests and wrote:\n%s", after.Manifests-before.Manifests, strings.Join(writes, "\n"))
	}

	blocks := set.Status.Blocks
	o.Move(moved)
	eventuallyWithin(t, 10*time.Minute, func() error {
		c.get(t, set)
		got := set.Status.Blocks - blocks
		return errorIf(got != moved || set.Status.Pending > 0, "%d new blocks, want %d", got, moved)
	})
	t.Logf("third pass: %d moved tags, %d new blocks", moved, set.Status.Blocks-blocks)
}

// awaitSet waits until so many images are published and so many have failed.
func (c *cluster) awaitSet(t *testing.T, set *v1alpha1.OfficialImageSet, published, failed int32) {
	t.Helper()
	told := time.Now()
	eventuallyWithin(t, 50*time.Minute, func() error {
		c.get(t, set)
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			t.Logf("%s published, %d of %d, %d pending, %d failed, ETA %v", set.Status.Progress, set.Status.Published, set.Status.Desired, set.Status.Pending, set.Status.Failed, set.Status.ETA)
		}
		s := set.Status
		return errorIf(s.Published != published || s.Failed != failed || s.Pending != 0, "%d published, %d pending, %d failed", s.Published, s.Pending, s.Failed)
	})
}

func eventuallyWithin(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("still after %v: %v", limit, err)
}

func (c *cluster) publishedArtifacts(t *testing.T, ns string) (n int) {
	t.Helper()
	list := new(v1alpha1.ArtifactList)
	for {
		must(t, c.List(t.Context(), list, client.InNamespace(ns), client.Limit(500), client.Continue(list.Continue)))
		for i := range list.Items {
			if status.IsTrue(&list.Items[i], v1alpha1.ConditionReady) {
				n++
			}
		}
		if list.Continue == "" {
			return n
		}
	}
}

func sumWrites(t *testing.T, lines []string) (total int) {
	t.Helper()
	for _, line := range lines {
		n := 0
		if _, err := fmt.Sscanf(line, "%d x", &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}
