package ledger

import (
	"slices"
	"testing"
)

func TestARegistryHasOneName(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io": "docker.io", "registry-1.docker.io": "docker.io", "index.docker.io": "docker.io",
		" Docker.IO\t": "docker.io", "docker.io:443": "docker.io", "Registry-1.Docker.io:443": "docker.io",
		"quay.io": "quay.io", "QUAY.io:443": "quay.io", "quay.io:5000": "quay.io:5000",
		"localhost": "localhost", "localhost:5000": "localhost:5000", "registry:443": "registry:443",
		"mirror.gcr.io": "mirror.gcr.io", // a registry of its own, whatever it serves
		"[::1]:5000":    "[::1]:5000",
		"":              "", "docker": "", "DOCKER": "", "https://docker.io": "", "docker.io/library": "", "docker.io.": "",
		"docker.io,quay.io": "", "docker.io quay.io": "", "*.docker.io": "", "docker.io:port": "",
	} {
		got, err := CanonicalRegistry(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("registry %q is %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"registry-1.docker.io/library/alpine:3.20": "docker.io/library/alpine:3.20",
		"index.docker.io/alpine":                   "docker.io/library/alpine:latest",
		"DOCKER.io:443/alpine:3.20":                "docker.io/library/alpine:3.20",
		"Quay.io/team/app:1":                       "quay.io/team/app:1",
		"registry:443/app:1":                       "registry:443/app:1",
		"TEAM/app:1":                               "",
		"docker.io./library/alpine:3.20":           "",
	} {
		image, err := ParseImage(name)
		if (err == nil) != (want != "") || err == nil && image.String() != want {
			t.Errorf("image %q is %q, %v, want %q", name, image, err, want)
		}
	}
	if names := RegistryNames("docker.io"); !slices.Contains(names, "registry-1.docker.io") || names[0] != "docker.io" {
		t.Errorf("names of Docker Hub: %v", names)
	}
}
