package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// annotationSubject on an index's manifest names the manifest that it is
	// an attestation of, and annotationType is there on nothing else
	// (docs.docker.com/build/metadata/attestations).
	annotationSubject = "vnd.docker.reference.digest"
	annotationType    = "vnd.docker.reference.type"
)

func (c *copier) platforms(ctx context.Context, top *Manifest) ([]ledger.Platform, error) {
	if !types.MediaType(top.MediaType).IsIndex() {
		p, err := c.platform(ctx, top, nil)
		if err != nil {
			return nil, err
		}
		return []ledger.Platform{p}, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(top.Data))
	if err != nil {
		return nil, c.invalid(top, err)
	}
	if len(index.Manifests) == 0 || len(index.Manifests) > maxManifests {
		return nil, c.invalid(top, fmt.Errorf("an index of %d manifests: between 1 and %d", len(index.Manifests), maxManifests))
	}
	selected := c.selectPlatforms(index.Manifests)
	if len(selected) == 0 {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%s has none of the platforms %s", c.image, strings.Join(c.which.Platforms, ", "))}
	}
	var out []ledger.Platform
	for _, desc := range selected {
		m, err := c.manifest(ctx, digest.Digest(desc.Digest.String()))
		if err != nil {
			return nil, err
		}
		p, err := c.platform(ctx, m, desc.Platform)
		if err != nil {
			return nil, err
		}
		if desc.Annotations[annotationType] != "" { // whatever it says of a platform, it is not to be run
			p.Platform = ledger.UnknownPlatform
		}
		out = append(out, p)
	}
	return out, nil
}

// selectPlatforms are the manifests that are copied.
func (c *copier) selectPlatforms(all []v1.Descriptor) (out []v1.Descriptor) {
	if len(c.which.Platforms) == 0 {
		return all
	}
	taken := map[string]bool{}
	for _, d := range all {
		recorded := c.which.Recorded != nil && c.which.Recorded.HasManifest(digest.Digest(d.Digest.String()))
		if recorded || MatchPlatform(c.which.Platforms, Platform(d.Platform)) {
			taken[d.Digest.String()] = true
		}
	}
	for _, d := range all {
		if taken[d.Digest.String()] || taken[d.Annotations[annotationSubject]] {
			out = append(out, d)
		}
	}
	return out
}

// MissingPlatforms are the requested platforms (all, if there are none) that an
// image's index has and its entry lacks.
func MissingPlatforms(ctx context.Context, s *store.Store, entry *ledger.AddArtifact, wanted []string) ([]string, error) {
	if !types.MediaType(entry.MediaType).IsIndex() {
		return nil, nil
	}
	data, err := s.ReadAll(ctx, entry.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the index %s of %s: %w", entry.Digest, entry.Artifact, err)
	}
	var missing []string
	for _, d := range index.Manifests {
		platform := Platform(d.Platform)
		if (len(wanted) == 0 || MatchPlatform(wanted, platform)) && !entry.Names(digest.Digest(d.Digest.String())) {
			missing = append(missing, platform)
		}
	}
	return missing, nil
}

// MatchPlatform tells whether a platform is one of the requested ones.
func MatchPlatform(wanted []string, platform string) bool {
	for _, w := range wanted {
		if platform == w || strings.HasPrefix(platform, w+"/") {
			return true
		}
	}
	return false
}

// platform reads an image manifest and notes its config and layers.
func (c *copier) platform(ctx context.Context, m *Manifest, platform *v1.Platform) (ledger.Platform, error) {
	if !types.MediaType(m.MediaType).IsImage() {
		return ledger.Platform{}, c.invalid(m, fmt.Errorf("media type %.100q is not an image's", m.MediaType))
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(m.Data))
	if err != nil {
		return ledger.Platform{}, c.invalid(m, err)
	}
	p := ledger.Platform{Digest: m.Digest, Config: digest.Digest(manifest.Config.Digest.String())}
	for _, b := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		if isManifest(string(b.MediaType)) {
			return ledger.Platform{}, c.invalid(m, fmt.Errorf("it has %s as a layer or config, and calls it %.100q: mirrors would serve it as a manifest", b.Digest, b.MediaType))
		}
		if !b.MediaType.IsDistributable() {
			continue // by the registries' rules it stays at its own URL
		}
		if err := c.want(digest.Digest(b.Digest.String()), b.Size, string(b.MediaType)); err != nil {
			return ledger.Platform{}, err
		}
		p.Size += b.Size
	}
	if platform == nil && manifest.Config.MediaType.IsConfig() {
		if platform, err = c.configPlatform(ctx, m, manifest.Config); err != nil {
			return ledger.Platform{}, err
		}
	}
	p.Platform = Platform(platform)
	return p, nil
}

// configPlatform reads the platform of an image without an index.
func (c *copier) configPlatform(ctx context.Context, m *Manifest, config v1.Descriptor) (*v1.Platform, error) {
	if config.Size > maxManifest {
		return nil, c.invalid(m, fmt.Errorf("config of %d bytes: at most %d", config.Size, maxManifest))
	}
	blob := c.blobs[digest.Digest(config.Digest.String())]
	if err := c.bring(ctx, blob); err != nil {
		return nil, err
	}
	data, err := c.store.ReadAll(ctx, blob.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	p := new(v1.Platform)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, c.invalid(m, err)
	}
	return p, nil
}
