package containerd

import (
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// folder is one of the folders in certs.d that a registry needs.
type folder struct {
	name     string
	registry string // as pulls name it
}

// hubWebsite is a host of Docker Hub that serves its images too. Ledgers know no
// image by its name: a strict machine pulls none.
const hubWebsite = "registry.hub.docker.com"

// folders are those of some registries, each once: containerd looks each name of
// a registry up in a folder of its own, and strictness under one name alone
// would be no strictness. (Of index.docker.io it makes docker.io first; other
// readers of certs.d do not.) A registry without a port is the same as one with
// :443. With a port containerd reads HOST_PORT_ and, only where there is none,
// HOST:PORT; Docker reads the latter. So both are written: neither a folder that
// is there already nor one that comes later leads past ours.
func folders(registries []string) (out []folder) {
	for _, r := range registries {
		for _, name := range namesOf(r) {
			if i := strings.LastIndexByte(name, ':'); i > 0 {
				out = append(out, folder{name[:i] + "_" + name[i+1:] + "_", name})
			}
			out = append(out, folder{name, name})
		}
	}
	slices.SortFunc(out, func(a, b folder) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(out)
}

// namesOf are all names of a registry, with the port that stands for none.
func namesOf(registry string) (out []string) {
	canonical, err := ledger.CanonicalRegistry(registry)
	if err != nil {
		return []string{registry}
	}
	names := append(ledger.RegistryNames(canonical), registry)
	if isDockerHub(canonical) {
		names = append(names, hubWebsite)
	}
	for _, name := range names {
		out = append(out, name)
		if !strings.Contains(name, ":") {
			out = append(out, name+":443")
		}
	}
	return out
}

// isDockerHub tells whether a name is one of Docker Hub's.
func isDockerHub(registry string) bool {
	canonical, err := ledger.CanonicalRegistry(registry)
	return err == nil && canonical == "docker.io"
}
