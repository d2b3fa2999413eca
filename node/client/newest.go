package client

import (
	"context"
	"path"
	"slices"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Filter selects blocks by what they are about. The zero value selects all.
type Filter struct {
	// Since leaves out what was recorded before.
	Since time.Time
	// Repository is a pattern as of path.Match, such as "docker.io/library/*".
	Repository string
	// Platform is that of images, such as "linux/arm64".
	Platform string
}

// Match tells whether a block is selected.
func (f Filter) Match(b ledger.BlockJSON) bool {
	e, err := ledger.ReadEntry(b.Height, []byte(b.Entry))
	if err != nil {
		return f == Filter{} // a block of a type to come is listed among all
	}
	repository, platforms := "", []ledger.Platform(nil)
	if e.Artifact != nil {
		repository, platforms = e.Artifact.Repository(), e.Artifact.Images()
	} else {
		repository, _ = e.Withdraws()
	}
	if f.Repository != "" {
		if ok, err := path.Match(f.Repository, repository); err != nil || !ok {
			return false
		}
	}
	if f.Platform != "" && !slices.ContainsFunc(platforms, func(p ledger.Platform) bool { return p.Platform == f.Platform }) {
		return false
	}
	return f.Since.IsZero() || !timeOf(e).Before(f.Since)
}

func timeOf(e *ledger.Entry) time.Time {
	switch {
	case e.Artifact != nil:
		return e.Artifact.Time
	case e.Revocation != nil:
		return e.Revocation.Time
	case e.Withdrawal != nil:
		return e.Withdrawal.Time
	case e.Restoration != nil:
		return e.Restoration.Time
	}
	return e.Rotation.Time
}

// Recent lists up to limit of the newest blocks that a filter selects, newest first. It
// ends at the first page with nothing as new as the filter's Since: blocks are recorded
// in the order of their times, but for a clock that was set.
func (c *Client) Recent(ctx context.Context, f Filter, limit int) (out []ledger.BlockJSON, err error) {
	for before := int64(0); ; {
		page, err := c.Newest(ctx, before, 0)
		if err != nil || len(page) == 0 {
			return out, err
		}
		recent := false
		for _, b := range page {
			recent = recent || Filter{Since: f.Since}.Match(b)
			if f.Match(b) {
				out = append(out, b)
			}
			if len(out) == limit {
				return out, nil
			}
		}
		if before = page[len(page)-1].Height; before == 0 || !recent {
			return out, nil
		}
	}
}

// After calls each with the blocks from a height on that a filter selects, oldest first,
// as they come, until ctx ends. It asks every so often.
func (c *Client) After(ctx context.Context, f Filter, from int64, every time.Duration, each func([]ledger.BlockJSON) error) error {
	for {
		var found []ledger.BlockJSON
		next := from
		for before := int64(0); ; {
			page, err := c.Newest(ctx, before, 0)
			if err != nil {
				return err
			}
			for _, b := range page {
				if next = max(next, b.Height+1); b.Height >= from && f.Match(b) {
					found = append(found, b)
				}
			}
			if len(page) == 0 || page[len(page)-1].Height <= from {
				break
			}
			before = page[len(page)-1].Height
		}
		if from = next; len(found) > 0 {
			slices.Reverse(found)
			if err := each(found); err != nil {
				return err
			}
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}
