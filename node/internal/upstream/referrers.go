package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	maxReferrers = 64 // of one image
	// noReferrersFor is how long a repository without a referrers API is believed.
	noReferrersFor = time.Hour
)

// AttachedFor is how long a Registry remembers what hangs on a digest, by default.
const AttachedFor = 10 * time.Minute

// signatureSuffixes are the tags under which cosign keeps what it attaches to
// an image: sha256-HEX.sig (github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
var signatureSuffixes = []string{".sig", ".att", ".sbom"}

// Attached is what hangs on a digest.
type Attached struct {
	// Referrers are manifests that have the digest as their subject.
	Referrers []digest.Digest
	// Signatures are signatures and attestations that are images of their own,
	// by cosign's tags.
	Signatures []Signature
}

// Signature is an image that is attached to another by its tag.
type Signature struct {
	Image  ledger.Image
	Digest digest.Digest
}

// Attached finds what hangs on a digest.
func (r *Registry) Attached(ctx context.Context, image ledger.Image, d digest.Digest) (*Attached, error) {
	key := image.Repository + "@" + d.String()
	if a, ok := r.attachments.Get(key); ok {
		return a, nil
	}
	a := new(Attached)
	var err error
	if a.Referrers, err = r.listReferrers(ctx, image, d); err != nil {
		return nil, err
	}
	for _, suffix := range signatureSuffixes {
		s := Signature{Image: image}
		s.Image.Tag = referrersTag(d) + suffix
		s.Digest, err = r.Resolve(ctx, s.Image)
		if IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a.Signatures = append(a.Signatures, s)
	}
	r.attachments.Add(key, a)
	return a, nil
}

func referrersTag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// IsNotFound tells whether a registry said that it has no such thing.
func IsNotFound(err error) bool {
	u, ok := errors.AsType[*Error](err)
	return ok && u.Kind == NotFound
}

// isUnknown tells whether a registry said that it has no such repository or
// manifest: that says nothing about its API.
func isUnknown(err error) bool {
	t, ok := errors.AsType[*transport.Error](err)
	return ok && slices.ContainsFunc(t.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.NameUnknownErrorCode || d.Code == transport.ManifestUnknownErrorCode
	})
}

// listReferrers asks the referrers API, or reads the tag that stands in for it
// (OCI distribution-spec 1.1, "Listing Referrers"). Whether there is an API is
// remembered for each repository, because different servers may answer behind
// one name.
func (r *Registry) listReferrers(ctx context.Context, image ledger.Image, d digest.Digest) ([]digest.Digest, error) {
	if !r.noReferrers.Contains(image.Repository) {
		data, err := r.referrersAPI(ctx, image, d)
		if err == nil {
			return parseReferrers(image, data)
		}
		if !IsNotFound(err) {
			return nil, err
		}
		if !isUnknown(err) {
			r.noReferrers.Add(image.Repository, struct{}{})
		}
	}
	fallback := image
	fallback.Tag = referrersTag(d)
	index, err := r.Resolve(ctx, fallback)
	if IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := r.Manifest(ctx, fallback, index)
	if err != nil {
		return nil, err
	}
	return parseReferrers(image, m.Data)
}

func (r *Registry) referrersAPI(ctx context.Context, image ledger.Image, d digest.Digest) ([]byte, error) {
	what := fmt.Sprintf("listing the referrers of %s of %s", d, image)
	resp, err := r.do(ctx, http.MethodGet, image.Repository, "referrers/"+d.String(), http.Header{"Accept": {string(types.OCIImageIndex)}}, http.StatusOK)
	if err != nil {
		return nil, classify(fmt.Errorf("%s: %w", what, err))
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, classify(fmt.Errorf("%s: %w", what, err))
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, string(types.OCIImageIndex)) {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%s: the answer has media type %.100q", what, kind)}
	}
	return data, nil
}

func parseReferrers(image ledger.Image, data []byte) ([]digest.Digest, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, invalid("the referrers of %s: %w", image, err)
	}
	if len(index.Manifests) > maxReferrers {
		return nil, invalid("the referrers of %s are %d: at most %d", image, len(index.Manifests), maxReferrers)
	}
	var out []digest.Digest
	for _, desc := range index.Manifests {
		out = append(out, digest.Digest(desc.Digest.String()))
	}
	return out, nil
}

// referrers notes what refers to the image. It becomes part of the image's
// piece list, so that the ledger vouches for it. One that is listed and not
// there was deleted: a registry without a referrers API lists it further.
func (c *copier) referrers(ctx context.Context, d digest.Digest) error {
	a, err := c.registry.Attached(ctx, c.image, d)
	if err != nil {
		return err
	}
	for _, r := range a.Referrers {
		m, err := c.manifest(ctx, r)
		if IsNotFound(err) {
			continue
		}
		if err == nil {
			err = c.referrer(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("a referrer of %s: %w", d, err)
		}
	}
	return nil
}

func (c *copier) referrer(ctx context.Context, m *Manifest) error {
	manifests := []*Manifest{m}
	if types.MediaType(m.MediaType).IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(m.Data))
		if err != nil {
			return c.invalid(m, err)
		}
		if len(index.Manifests) > maxManifests {
			return c.invalid(m, fmt.Errorf("an index of %d manifests: at most %d", len(index.Manifests), maxManifests))
		}
		manifests = nil
		for _, desc := range index.Manifests {
			m, err := c.manifest(ctx, digest.Digest(desc.Digest.String()))
			if err != nil {
				return err
			}
			manifests = append(manifests, m)
		}
	}
	for _, m := range manifests {
		if _, err := c.platform(ctx, m, &v1.Platform{}); err != nil {
			return err
		}
	}
	return nil
}
