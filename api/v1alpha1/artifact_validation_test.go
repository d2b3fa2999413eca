package v1alpha1

import (
	"strings"
	"testing"
)

func artifact(image, digest string, change ...func(*ArtifactSpec)) *Artifact {
	a := &Artifact{Spec: ArtifactSpec{Image: image, Digest: digest, PublisherRef: LocalReference{Name: "publisher"}}}
	a.Name = "artifact"
	for _, c := range change {
		c(&a.Spec)
	}
	return a
}

func lookedUp(change ...func(*ArtifactSpec)) *Artifact {
	a := artifact("docker.io/library/alpine:3.20", goodDigest)
	a.Spec.PublisherRef, a.Spec.NodeRef = LocalReference{}, LocalReference{Name: "mirror"}
	for _, c := range change {
		c(&a.Spec)
	}
	return a
}

func revoked(reason string) *Artifact {
	a := published(reason)
	a.Spec.State = StateRevoked
	return a
}

func published(reason string) *Artifact {
	a := artifact("docker.io/library/alpine:3.20", goodDigest)
	a.Spec.Reason = reason
	return a
}

var goodDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestArtifactIsValidated(t *testing.T) {
	needAPI(t)
	for name, tc := range map[string]struct {
		obj  *Artifact
		want string
	}{
		"an artifact":              {artifact("docker.io/library/alpine:3.20", goodDigest), ""},
		"another registry":         {artifact("localhost:5000/alpine:3.20", goodDigest), ""},
		"a short name":             {artifact("alpine:3.20", goodDigest), "spec.image"},
		"no library":               {artifact("docker.io/alpine:3.20", goodDigest), "official images are in library/"},
		"no tag":                   {artifact("docker.io/library/alpine", goodDigest), "spec.image"},
		"a digest in the name":     {artifact("docker.io/library/alpine:3.20@"+goodDigest, goodDigest), "spec.image"},
		"a digest of another kind": {artifact("docker.io/library/alpine:3.20", "sha512:00"), "spec.digest"},
		"looked up":                {lookedUp(), ""},
		"published and looked up":  {lookedUp(func(s *ArtifactSpec) { s.PublisherRef.Name = "publisher" }), "exactly one of publisherRef"},
		"neither":                  {lookedUp(func(s *ArtifactSpec) { s.NodeRef = LocalReference{} }), "exactly one of publisherRef"},
		"looked up by platform":    {lookedUp(func(s *ArtifactSpec) { s.Platforms = []string{"linux/amd64"} }), "platforms is for images that are published"},
		"a pinned tag":             {artifact("docker.io/library/alpine:3.20", goodDigest, func(s *ArtifactSpec) { s.Pinned = true }), ""},
		"looked up and pinned":     {lookedUp(func(s *ArtifactSpec) { s.Pinned = true }), "pinned is for images that are published"},
		"looked up and revoked":    {lookedUp(func(s *ArtifactSpec) { s.State, s.Reason = StateRevoked, "no" }), "only the Artifact that published an image"},
		"a revocation":             {revoked("it has a backdoor"), ""},
		"a revocation, no reason":  {revoked(""), "give a reason if, and only if"},
		"a reason of two lines":    {revoked("it has\na backdoor"), "one line"},
		"a reason without need":    {published("it is fine"), "give a reason if, and only if"},
	} {
		t.Run(name, func(t *testing.T) { check(t, tc.obj, tc.want) })
	}
}
