package objects

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestArtifactName(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	long := "docker.io/library/" + strings.Repeat("long/", 45) + "x:1"
	for image, want := range map[string]string{
		"docker.io/library/alpine:3.20":     "alpine-3.20-0123456789ab",
		"docker.io/bitnami/redis:7":         "bitnami-redis-7-0123456789ab",
		"ghcr.io/org/app:v1":                "ghcr.io-org-app-v1-0123456789ab",
		"docker.io/library/x:RC_1":          "x-rc-1-91441151-0123456789ab",
		"docker.io/library/x:rc_1":          "",
		"docker.io/library/x:1._-.":         "",
		"docker.io/library/x:_":             "",
		"registry.example:5000/library/x:1": "",
		long:                                "",
	} {
		got := ArtifactName(image, digest)
		if errs := validation.IsDNS1123Subdomain(got); len(errs) > 0 {
			t.Errorf("%s: %q: %v", image, got, errs)
		}
		if want != "" && got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}
