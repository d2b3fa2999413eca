package mirror

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	maxReferring = 512 // blocks that name one subject
	// maxManifestValues bounds the values of a manifest that may refer to another:
	// its annotations stay in memory.
	maxManifestValues = 1 << 16
)

// referrer is a manifest that refers to another one as its subject.
type referrer struct {
	ocispec.Descriptor
	subject digest.Digest
}

// referrers lists the attestations and signatures that were published with an
// image (OCI distribution-spec, "Listing Referrers"): the manifests that are on
// the ledger and whose subject is the one that was asked for. A digest without
// referrers has an empty list, even if it is unknown.
func (m *Mirror) referrers(ctx context.Context, w http.ResponseWriter, r *http.Request, req request) error {
	subject := digest.Digest(req.reference)
	if err := subject.Validate(); err != nil {
		return &refusal{http.StatusBadRequest, "DIGEST_INVALID", "referrers of " + req.reference + ": " + err.Error()}
	}
	found := map[digest.Digest]ocispec.Descriptor{}
	if ledger.CheckDigest(subject) == nil {
		blocks, err := m.Ledger.ByDigest(ctx, subject, maxReferring)
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if err := m.referrersIn(ctx, b, req.repository, subject, found); err != nil {
				return err
			}
		}
	}
	wanted := r.URL.Query().Get("artifactType")
	list := []ocispec.Descriptor{}
	for _, d := range slices.Sorted(maps.Keys(found)) {
		if wanted == "" || found[d].ArtifactType == wanted {
			list = append(list, found[d])
		}
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	writeJSON(w, http.StatusOK, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": list})
	return nil
}

// referrersIn adds the referrers that came with one block's artifact.
func (m *Mirror) referrersIn(ctx context.Context, b *ledger.Entry, repository string, subject digest.Digest, found map[digest.Digest]ocispec.Descriptor) error {
	v, err := m.resolver.inBlock(ctx, b, repository, subject)
	if err != nil {
		return ignoreRefusal(err)
	}
	all, err := m.subjectsOf(ctx, v)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.subject == subject {
			found[r.Digest] = r.Descriptor
		}
	}
	return nil
}

// subjectsOf reads all manifests of an artifact that have a subject.
func (m *Mirror) subjectsOf(ctx context.Context, v resolved) ([]referrer, error) {
	if all, ok := m.subjects.Get(v.list); ok {
		return all, nil
	}
	blobs, err := m.resolver.list(ctx, v.block.Artifact)
	if err != nil {
		return nil, err
	}
	all := []referrer{}
	for _, b := range blobs {
		if !isManifest(b.MediaType) {
			continue
		}
		data, _, err := m.content(ctx, resolved{Blob: b, list: v.list, block: v.block})
		if err != nil {
			return nil, err
		}
		var manifest struct {
			ArtifactType string `json:"artifactType"`
			Config       struct {
				MediaType string `json:"mediaType"`
			} `json:"config"`
			Subject     *struct{ Digest digest.Digest } `json:"subject"`
			Annotations map[string]string               `json:"annotations"`
		}
		if bounded.Unmarshal(data, maxManifestValues, &manifest) != nil || manifest.Subject == nil {
			continue
		}
		d := ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, ArtifactType: manifest.ArtifactType, Annotations: manifest.Annotations}
		if d.ArtifactType == "" && strings.Contains(b.MediaType, ".manifest.") {
			d.ArtifactType = manifest.Config.MediaType
		}
		all = append(all, referrer{d, manifest.Subject.Digest})
	}
	m.subjects.Add(v.list, all)
	return all, nil
}
