package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxPages bounds the pages of a digest's blocks that are read for one name.
const maxPages = 50

// Query asks a node which blocks are of an image, or name a digest: newest first,
// and no more than its first page. What is asked for in two ways, by a name
// and a digest that do not belong together, is an error that says so.
func Query(ctx context.Context, nodeURL, what string) ([]ledger.BlockJSON, error) {
	ref, err := ledger.ParseReference(what)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return Blocks(ctx, nodeURL, ref)
}

// Blocks is Query for what was read already.
func Blocks(ctx context.Context, nodeURL string, ref *ledger.Reference) ([]ledger.BlockJSON, error) {
	if ref.Named() && ref.Digits != "" {
		return named(ctx, nodeURL, ref)
	}
	if ref.Digits != "" {
		blocks, err := page(ctx, nodeURL, url.Values{"digest": {ref.Digest().String()}})
		if err != nil || len(blocks) > 0 {
			return blocks, err
		}
	}
	for _, image := range ref.Names {
		blocks, err := page(ctx, nodeURL, url.Values{"image": {image.String()}})
		if err != nil || len(blocks) > 0 {
			return blocks, err
		}
	}
	return nil, nil
}

// named finds the blocks that record a digest under a name.
func named(ctx context.Context, nodeURL string, ref *ledger.Reference) ([]ledger.BlockJSON, error) {
	ask := url.Values{"digest": {ref.Digest().String()}}
	var other *ledger.AddArtifact // what the digest is recorded as
	var at int64
	for range maxPages {
		blocks, err := page(ctx, nodeURL, ask)
		if err != nil {
			return nil, err
		}
		var out []ledger.BlockJSON
		for _, b := range blocks {
			a, err := ledger.ParseEntry([]byte(b.Entry))
			switch {
			case err != nil:
			case ref.Means(a.Artifact):
				out = append(out, b)
			case other == nil:
				other, at = a, b.Height
			}
		}
		if len(out) > 0 {
			return out, nil
		}
		if len(blocks) < ledger.MaxArtifacts {
			break
		}
		ask.Set("before", strconv.FormatInt(blocks[len(blocks)-1].Height, 10))
	}
	if other == nil {
		return nil, nil
	}
	return nil, fmt.Errorf("the name and the digest of %s do not belong together: the ledger records that digest as %s (block %d), and not under that name; give one of the two alone",
		ref, other.Name(), at)
}

func page(ctx context.Context, nodeURL string, ask url.Values) (blocks []ledger.BlockJSON, err error) {
	return blocks, get(ctx, nodeURL, "/api/v1/artifacts?"+ask.Encode(), &blocks)
}

// absent says that a node's ledger has nothing of what was asked for.
func absent(what, nodeURL string) error {
	if ledger.IsShortID(what) {
		return fmt.Errorf("there is no image %s on the ledger of %s; if it is the beginning of an image ID, give at least %d digits of it", what, nodeURL, ledger.MinDigits)
	}
	return errors.New(what + " is not on the ledger of " + nodeURL)
}
