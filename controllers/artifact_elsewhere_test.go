package controllers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers"
	"github.com/pyrsia/pyrsia-operator/controllers/artifact"
	"github.com/pyrsia/pyrsia-operator/controllers/imageset"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// countedLists counts what is read by lists.
type countedLists struct {
	client.Client
	lists, items int
}

func (l *countedLists) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	err := l.Client.List(ctx, list, opts...)
	l.lists++
	l.items += meta.LenList(list)
	return err
}

// cachedClient reads from a cache like the operator's, of one namespace.
func (c *cluster) cachedClient(t *testing.T, namespace string) *countedLists {
	t.Helper()
	options := controllers.CacheOptions(pyrsianode.DefaultHostRules("pyrsia-system"))
	options.Scheme, options.DefaultNamespaces = c.scheme, map[string]cache.Config{namespace: {}}
	reader, err := cache.New(c.env.Config, options)
	must(t, err)
	must(t, objects.SetupIndexes(t.Context(), reader))
	go func() { _ = reader.Start(t.Context()) }()
	if !reader.WaitForCacheSync(t.Context()) {
		t.Fatal("the cache is not filled")
	}
	cached, err := client.New(c.env.Config, client.Options{Scheme: c.scheme, Cache: &client.CacheOptions{Reader: reader}})
	must(t, err)
	return &countedLists{Client: cached}
}

// A tenant can create thousands of Artifacts with one digest: reconciling one
// does not read all the others, and dropping the content of a set reads once
// for each digest.
func TestArtifactsOfOneDigestTakeLittleWork(t *testing.T) {
	c, ns := ownNamespace(t)
	const many = 30
	d := digest.FromString("x").String()
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine"})
	for i := range many {
		set.Spec.Images[0].Tags = append(set.Spec.Images[0].Tags, fmt.Sprint(i))
	}
	c.create(t, set) // it waits for its publisher
	for i := range many {
		image := fmt.Sprintf("docker.io/library/alpine:%d", i)
		c.create(t, ownedByHand(fixtures.Artifact(ns, objects.ArtifactName(image, d), image, d), set))
	}
	cached := c.cachedClient(t, ns)
	art := fixtures.Artifact(ns, objects.ArtifactName("docker.io/library/alpine:1", d), "", "")
	must(t, cached.Get(t.Context(), client.ObjectKeyFromObject(art), art))
	if _, err := (&artifact.Reconciler{Client: cached}).Steps(art)[0](t.Context(), art); err != nil || cached.items > 0 {
		t.Errorf("to look at an Artifact %d others are looked at that have withdrawn nothing, %v", cached.items, err)
	}
	cached.lists = 0
	ids, err := (&imageset.Reconciler{Client: cached}).WantedByNobody(t.Context(), deleted(set))
	if err != nil || cached.lists > 3 {
		t.Errorf("to find out who else wants a digest %d lists are read, %v", cached.lists, err)
	}
	if len(ids) != 0 { // the set stays, in the cache
		t.Errorf("%d of them are wanted by nobody", len(ids))
	}
}

func deleted(set *v1alpha1.OfficialImageSet) *v1alpha1.OfficialImageSet {
	set = set.DeepCopy()
	set.DeletionTimestamp = new(metav1.Now())
	return set
}
