package report

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/spf13/pflag"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// followEvery is how often a node is asked for new blocks.
const followEvery = 2 * time.Second

// LogOptions are the flags of the verb log where no image is named.
type LogOptions struct {
	limit      int
	since      time.Duration
	follow     bool
	repository string
	platform   string
}

// AddFlags registers the flags.
func (o *LogOptions) AddFlags(f *pflag.FlagSet) {
	f.IntVar(&o.limit, "limit", 20, "how many of the newest blocks to show; 0 is all")
	f.DurationVar(&o.since, "since", 0, "show what was recorded within this time, such as 24h")
	f.BoolVar(&o.follow, "follow", false, "go on with new blocks as they come")
	f.StringVar(&o.repository, "repository", "", "show what is about repositories of this pattern, such as 'docker.io/library/*'")
	f.StringVar(&o.platform, "platform", "", "show images that have this platform, such as linux/arm64")
}

// Filter is what the flags select.
func (o *LogOptions) Filter(ofAnImage bool, now time.Time) (f client.Filter, err error) {
	if ofAnImage {
		if *o != (LogOptions{limit: o.limit}) {
			return f, errors.New("--since, --follow, --repository and --platform are for the whole ledger: leave out IMAGE")
		}
		return f, nil
	}
	if _, err := path.Match(o.repository, ""); err != nil {
		return f, fmt.Errorf("--repository %s: %w", o.repository, err)
	}
	if o.limit < 0 || o.since < 0 {
		return f, errors.New("--limit and --since are not negative")
	}
	f = client.Filter{Repository: o.repository, Platform: o.platform}
	if o.since > 0 {
		f.Since = now.Add(-o.since)
	}
	return f, nil
}

// Show has show print the newest blocks that are selected, and those to come if it
// follows.
func (o *LogOptions) Show(ctx context.Context, node *client.Client, f client.Filter, show func(blocks []ledger.BlockJSON, first bool) error) error {
	newest, err := node.Newest(ctx, 0, 1)
	if err != nil {
		return err
	}
	limit := o.limit
	if limit == 0 {
		limit = -1
	}
	blocks, err := node.Recent(ctx, f, limit)
	if err != nil {
		return err
	}
	if err := show(blocks, true); err != nil || !o.follow {
		return err
	}
	from := int64(0)
	for _, b := range append(newest, blocks...) {
		from = max(from, b.Height+1)
	}
	return node.After(ctx, f, from, followEvery, func(more []ledger.BlockJSON) error { return show(more, false) })
}
