package prefetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxManifest is the limit of the OCI distribution-spec for manifests.
const maxManifest = 4 << 20

// errNewer is returned when a newer image may have to come first.
var errNewer = errors.New("the ledger has grown")

// platformOf is what an artifact has for this machine's platform; of several
// variants, such as linux/arm/v7 and linux/arm/v6, the first.
func (p *Prefetcher) platformOf(a *ledger.AddArtifact) (ledger.Platform, bool) {
	exact := func(has ledger.Platform) bool { return has.Platform == p.Platform }
	variant := func(has ledger.Platform) bool { return strings.HasPrefix(has.Platform, p.Platform+"/") }
	for _, fits := range []func(ledger.Platform) bool{exact, variant} {
		if i := slices.IndexFunc(a.Platforms, fits); i >= 0 {
			return a.Platforms[i], true
		}
	}
	return ledger.Platform{}, false
}

// fetch brings what a client on this machine would ask for: the top manifest,
// that of the platform, its config and its layers.
// It stops between two blobs when the ledger has grown beyond seen.
func (p *Prefetcher) fetch(ctx context.Context, i *image, seen int64) error {
	a := i.block.Artifact
	own, _ := p.platformOf(a)
	data, err := p.Fetcher.Small(ctx, a.Pieces, pieces.MaxList)
	if err != nil {
		return err
	}
	list, err := pieces.Parse(data)
	if err != nil {
		return err
	}
	blobs := map[digest.Digest]pieces.Blob{}
	for _, b := range list.Blobs {
		blobs[b.Digest] = b
	}
	manifest, ok := blobs[own.Digest]
	if !ok {
		return fmt.Errorf("the piece list %s lacks the manifest %s", a.Pieces, own.Digest)
	}
	data, err = p.Fetcher.ReadAll(ctx, manifest, a.Pieces, maxManifest)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", own.Digest, err)
	}
	want := []digest.Digest{a.Digest, own.Digest, m.Config.Digest}
	for _, layer := range m.Layers {
		want = append(want, layer.Digest)
	}
	i.has = append(slices.Clone(want), a.Pieces)
	for _, d := range want {
		b, ok := blobs[d]
		if !ok { // a layer that registries do not hand out
			continue
		}
		if p.Ledger.Size() > seen {
			return errNewer
		}
		if err := p.Fetcher.Bring(ctx, b, a.Pieces); err != nil {
			return err
		}
	}
	return nil
}
