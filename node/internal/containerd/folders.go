package containerd

import (
	"slices"
	"strings"
)

// dockerHub are the names of one registry. containerd looks each of them up in
// a folder of its own (of index.docker.io it makes docker.io first, other
// readers of certs.d do not): strictness under one name alone would be no
// strictness.
var dockerHub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// folder is one of the folders in certs.d that a registry needs.
type folder struct {
	name     string
	registry string // as pulls name it
}

// folders are those of some registries, each once. containerd reads HOST_PORT_
// and, only where there is none, HOST:PORT; Docker reads the latter. So both
// are written: neither a folder that is there already nor one that comes later
// leads past ours.
func folders(registries []string) (out []folder) {
	for _, r := range registries {
		names := []string{r}
		if slices.Contains(dockerHub, r) {
			names = dockerHub
		}
		for _, name := range names {
			if i := strings.LastIndexByte(name, ':'); i > 0 {
				out = append(out, folder{name[:i] + "_" + name[i+1:] + "_", name})
			}
			out = append(out, folder{name, name})
		}
	}
	slices.SortFunc(out, func(a, b folder) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(out)
}
