package mirror

import (
	"net/http"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// defaultRegistry is meant by clients that name none (dockerd).
const defaultRegistry = "docker.io"

// request is a parsed request of a client.
type request struct {
	kind       string // base, manifest, blob, tags, catalog, referrers; other
	name       string // of the repository, as the client wrote it
	repository string // canonical: "docker.io/library/alpine"
	reference  string // tag or digest
}

// parse reads a request of the distribution API. The kind is set even if the
// request is refused.
func parse(r *http.Request) (request, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return request{kind: "other"}, &refusal{http.StatusMethodNotAllowed, "UNSUPPORTED", "a Pyrsia node is read-only: images come from the publisher"}
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2")
	if !ok {
		return request{kind: "other"}, &refusal{http.StatusNotFound, "UNSUPPORTED", "this is a registry mirror: its API begins at /v2/"}
	}
	switch path {
	case "", "/":
		return request{kind: "base"}, nil
	case "/_catalog":
		return request{kind: "catalog"}, nil
	}
	name, kind, reference := split(strings.TrimPrefix(path, "/"))
	if kind == "" || reference == "" {
		return request{kind: "other"}, &refusal{http.StatusNotFound, "UNSUPPORTED", "not a path of the OCI distribution-spec"}
	}
	req := request{kind: kind, name: name, reference: reference}
	host, repository, err := named(r, name)
	if err != nil {
		return req, err
	}
	image, err := ledger.ParseImage(host + "/" + repository)
	if err != nil || strings.Contains(name, ":") {
		return req, &refusal{http.StatusBadRequest, "NAME_INVALID", "not a repository name: " + name}
	}
	req.repository = image.Name()
	return req, nil
}

// split takes NAME/manifests/REFERENCE and the like apart; names may hold
// slashes.
func split(path string) (name, kind, reference string) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return "", "", ""
	}
	n := len(parts)
	name, reference = strings.Join(parts[:n-2], "/"), parts[n-1]
	switch parts[n-2] {
	case "manifests":
		return name, "manifest", reference
	case "blobs":
		return name, "blob", reference
	case "referrers":
		return name, "referrers", reference
	case "tags":
		if reference == "list" {
			return name, "tags", reference
		}
	}
	return "", "", ""
}

// named tells which registry and repository a client means. Clients that send no ns=
// can name other registries than Docker Hub as image names do, in front:
// 127.0.0.1:5001/quay.io/org/image. A first component that looks like a host cannot
// be part of a name on Docker Hub, whose user names have no dots. A host with a port
// can be named by ns= alone: no repository has a colon in its name.
func named(r *http.Request, name string) (host, repository string, err error) {
	first, rest, _ := strings.Cut(name, "/")
	if isHost := strings.Contains(first, ".") || first == "localhost"; isHost && rest != "" && r.URL.Query().Get("ns") == "" {
		if host, err := ledger.CanonicalRegistry(first); err == nil {
			return host, rest, nil
		}
	}
	host, err = registry(r)
	return host, name, err
}

// registry is the registry whose mirror the client thinks this is: containerd
// says so by ns=, by any name that the registry has; dockerd can only mean
// Docker Hub.
func registry(r *http.Request) (string, error) {
	ns := r.URL.Query().Get("ns")
	if ns == "" {
		return defaultRegistry, nil
	}
	host, err := ledger.CanonicalRegistry(ns)
	if err != nil {
		return "", &refusal{http.StatusBadRequest, "NAME_INVALID", "ns: " + err.Error()}
	}
	return host, nil
}
