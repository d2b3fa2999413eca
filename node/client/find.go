package client

import (
	"context"
	"fmt"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxPages bounds the pages of a digest's blocks that are read for one name.
const maxPages = 50

// Find asks which blocks are meant by what a person wrote, in any of the ways in
// which clients show an image: newest first, and no more than the first page. A name
// and a digest that do not belong together are an error that says so.
func (c *Client) Find(ctx context.Context, ref *ledger.Reference) ([]ledger.BlockJSON, error) {
	if ref.Named() && ref.Digits != "" {
		return c.named(ctx, ref)
	}
	if ref.Digits != "" {
		blocks, err := c.Blocks(ctx, Query{Digest: ref.Digest().String()})
		if err != nil || len(blocks) > 0 {
			return blocks, err
		}
	}
	for _, image := range ref.Names {
		blocks, err := c.Blocks(ctx, Query{Image: image.String()})
		if err != nil || len(blocks) > 0 {
			return blocks, err
		}
	}
	return nil, nil
}

// named finds the blocks that record a digest under a name.
func (c *Client) named(ctx context.Context, ref *ledger.Reference) ([]ledger.BlockJSON, error) {
	q := Query{Digest: ref.Digest().String()}
	var other *ledger.AddArtifact // what the digest is recorded as
	var at int64
	for range maxPages {
		blocks, err := c.Blocks(ctx, q)
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
		q.Before = blocks[len(blocks)-1].Height
	}
	if other == nil {
		return nil, nil
	}
	return nil, fmt.Errorf("the name and the digest of %s do not belong together: the ledger records that digest as %s (block %d), and not under that name; give one of the two alone",
		ref, other.Name(), at)
}

// Proof fetches the proof of a block, with those of what withdraws something of it.
func (c *Client) Proof(ctx context.Context, height int64) (proof ledger.Bundle, withdrawn []ledger.WithdrawnJSON, err error) {
	b, err := c.Block(ctx, height)
	if err != nil {
		return proof, nil, err
	}
	proof = ledger.Bundle{Entry: b.Entry, Proof: b.Proof}
	for _, w := range b.Withdrawn {
		by, err := c.Block(ctx, w.By)
		if err != nil {
			return proof, nil, err
		}
		proof.Withdrawn = append(proof.Withdrawn, ledger.Bundle{Entry: by.Entry, Proof: by.Proof})
	}
	return proof, b.Withdrawn, nil
}
