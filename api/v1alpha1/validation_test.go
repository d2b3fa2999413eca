package v1alpha1

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What must not change cannot be changed, and what may can.
func TestUpdatesAreValidated(t *testing.T) {
	needAPI(t)
	type update struct {
		obj    client.Object
		change func()
	}
	node := func(n *PyrsiaNode, change func(*PyrsiaNodeSpec)) update { return update{n, func() { change(&n.Spec) }} }
	set := func(s *OfficialImageSet, change func(*OfficialImageSetSpec)) update {
		return update{s, func() { change(&s.Spec) }}
	}
	art := func(a *Artifact, change func(*Artifact)) update { return update{a, func() { change(a) }} }
	state := func(a *Artifact, state ArtifactState, reason string) update {
		return update{a, func() { a.Spec.State, a.Spec.Reason = state, reason }}
	}
	alpine := func(change ...func(*ArtifactSpec)) *Artifact {
		return artifact("docker.io/library/alpine:3.20", goodDigest, change...)
	}
	pinned := func(s *ArtifactSpec) { s.Pinned = true }
	for name, tc := range map[string]struct {
		update
		want string
	}{
		"a node's image":                            {node(publisher(), func(s *PyrsiaNodeSpec) { s.Image = "example.com/pyrsia:v2" }), ""},
		"a node's role":                             {node(mirror(), func(s *PyrsiaNodeSpec) { s.Role, s.Network = RolePublisher, nil }), "role cannot be changed"},
		"a publisher's storage":                     {node(publisher(), func(s *PyrsiaNodeSpec) { s.Storage.Size = new(resource.MustParse("2Ti")) }), "the volume of a publisher cannot be changed"},
		"a bucket that came later":                  {node(publisher(), bucket(Bucket{Name: "images"})), ""},
		"a bucket's credentials":                    {node(publisher(bucket(Bucket{Name: "images"})), bucket(Bucket{Name: "images", CredentialsSecretRef: &LocalReference{Name: "s3"}})), ""},
		"a bucket that is taken away":               {node(publisher(bucket(Bucket{Name: "images"})), func(s *PyrsiaNodeSpec) { s.Storage.Bucket = nil }), "a bucket cannot be taken away"},
		"a first rotation":                          {node(publisher(), func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{KeyGeneration: 2} }), ""},
		"a rotation":                                {node(publisher(generation(6)), generation(7)), ""},
		"two rotations at once":                     {node(publisher(generation(6)), generation(8)), "keyGeneration can only be raised, by one"},
		"a rotation taken back":                     {node(publisher(generation(6)), generation(5)), "keyGeneration can only be raised, by one"},
		"a rotation forgotten":                      {node(publisher(generation(2)), func(s *PyrsiaNodeSpec) { s.Publisher = nil }), "keyGeneration can only be raised, by one"},
		"a mirror's storage":                        {node(mirror(), func(s *PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/x" }), ""},
		"a set's images":                            {set(imageSet(), func(s *OfficialImageSetSpec) { s.Images[0].Tags = []string{"3.21"} }), ""},
		"a set's publisher":                         {set(imageSet(), func(s *OfficialImageSetSpec) { s.PublisherRef.Name = "other" }), "publisherRef cannot be changed"},
		"a set's platforms":                         {set(imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"linux/amd64"} }), func(s *OfficialImageSetSpec) { s.Platforms = append(s.Platforms, "linux/arm64") }), "platforms cannot be changed"},
		"a set's platforms, first":                  {set(imageSet(), func(s *OfficialImageSetSpec) { s.Platforms = []string{"linux/arm64"} }), "platforms cannot be changed"},
		"an artifact's revocation":                  {state(published(""), StateRevoked, "it has a backdoor"), ""},
		"a revocation taken back":                   {state(revoked("it has a backdoor"), StatePublished, ""), "stays so until it is Restored"},
		"a restoration":                             {state(revoked("it has a backdoor"), StateRestored, "a false alarm"), ""},
		"a restoration without a reason":            {state(revoked("it has a backdoor"), StateRestored, ""), "give a reason if, and only if"},
		"a restoration of what another one revoked": {state(published(""), StateRestored, "a false alarm"), ""},
		"a revocation's reason":                     {art(revoked("it has a backdoor"), func(a *Artifact) { a.Spec.Reason = "it has none" }), "the reason is on the ledger for good"},
		"an artifact's labels":                      {art(alpine(), func(a *Artifact) { a.Labels = map[string]string{"a": "b"} }), ""},
		"an artifact's node":                        {art(lookedUp(), func(a *Artifact) { a.Spec.NodeRef.Name = "another" }), "an Artifact cannot be changed"},
		"a lookup that is to publish": {art(lookedUp(), func(a *Artifact) {
			a.Spec.NodeRef, a.Spec.PublisherRef = LocalReference{}, LocalReference{Name: "publisher"}
		}), "an Artifact cannot be changed"},
		"an artifact's pin":              {art(alpine(), func(a *Artifact) { a.Spec.Pinned = true }), "an Artifact cannot be changed"},
		"a pin taken back":               {art(alpine(pinned), func(a *Artifact) { a.Spec.Pinned = false }), "an Artifact cannot be changed"},
		"a pinned artifact's revocation": {state(alpine(pinned), StateRevoked, "it has a backdoor"), ""},
		"an artifact's tag":              {art(alpine(), func(a *Artifact) { a.Spec.Image = "docker.io/library/alpine:3.21" }), "an Artifact cannot be changed"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.obj.SetNamespace("default")
			if err := api.Create(t.Context(), tc.obj); err != nil {
				t.Fatal(err)
			}
			tc.change()
			verdict(t, api.Update(t.Context(), tc.obj), tc.want)
			if err := api.Delete(t.Context(), tc.obj); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The status of a new object says that nobody has looked at it yet.
func TestDefaults(t *testing.T) {
	needAPI(t)
	n, s := mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{} }), imageSet()
	for _, obj := range []client.Object{n, s} {
		check(t, obj, "")
	}
	if n.Status.ObservedGeneration != -1 || s.Status.ObservedGeneration != -1 {
		t.Errorf("observedGeneration is %d and %d, want -1", n.Status.ObservedGeneration, s.Status.ObservedGeneration)
	}
	m := n.Spec.Mirror
	if m.Port != 5001 || m.Containerd != ContainerdStrict || m.ContainerdConfigPath != "/etc/containerd/certs.d" || len(m.Registries) != 1 {
		t.Errorf("the mirror's defaults are %+v", m)
	}
	if h := n.Spec.PullHistory; *h.Limit != 1000 || h.MaxAge.Duration != 720*time.Hour {
		t.Errorf("the pull history's defaults are %d, %s", *h.Limit, h.MaxAge.Duration)
	}
	if s.Spec.Interval.Duration != time.Hour || *s.Spec.HistoryLimit != 3 {
		t.Errorf("the set's defaults are %v, %d", s.Spec.Interval, *s.Spec.HistoryLimit)
	}
}
