package ledger

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// dockerHub is Docker Hub's canonical name.
const dockerHub = "docker.io"

// dockerHubNames all lead to Docker Hub: by the first one it is known,
// registry-1 is the host that serves it, and index was its name before.
var dockerHubNames = []string{dockerHub, "registry-1.docker.io", "index.docker.io"}

var registryHost = regexp.MustCompile("^" + reference.DomainRegexp.String() + "$")

// CanonicalRegistry returns the one name that the ledger, mirrors, settings and
// questions use for a registry: registry-1.docker.io, Docker.IO and
// docker.io:443 are docker.io. What cannot be the registry of an image is
// refused.
func CanonicalRegistry(name string) (string, error) {
	host := strings.ToLower(strings.TrimSpace(name))
	if bare, ok := strings.CutSuffix(host, ":443"); ok && isHost(bare) {
		host = bare // the port of every registry that names none
	}
	if slices.Contains(dockerHubNames, host) {
		return dockerHub, nil
	}
	if len(host) > maxImageLen || !isHost(host) || !registryHost.MatchString(host) {
		return "", fmt.Errorf("registry %.80q: want the host in its images' names, with a dot or a port, without a scheme and a path: quay.io, registry.example:5000", name)
	}
	return host, nil
}

// RegistryNames are all names under which clients may ask for a registry, the
// canonical one first.
func RegistryNames(canonical string) []string {
	if canonical == dockerHub {
		return slices.Clone(dockerHubNames)
	}
	return []string{canonical}
}

// isHost tells the registry at the beginning of an image name from the first
// part of a repository of Docker Hub, as container clients do.
func isHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.ToLower(s) != s
}

// Name is the canonical name of the artifact. Version 0.1.0 recorded images
// under any name of their registry.
func (e *AddArtifact) Name() string { return canonicalName(e.Artifact) }

func canonicalName(artifact string) string {
	if strings.HasPrefix(artifact, dockerHub+"/") {
		return artifact // most are, and this is asked of each block
	}
	image, err := ParseImage(artifact)
	if err != nil {
		return artifact // valid in a block; no question leads to it
	}
	return image.String()
}

func CanonicalName(artifact []byte) []byte {
	if bytes.HasPrefix(artifact, []byte(dockerHub+"/")) {
		return artifact
	}
	return []byte(canonicalName(string(artifact)))
}
