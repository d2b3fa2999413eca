// Package prefetch fetches images before a client asks for them: those that
// match a mirror's patterns, as soon as they are on the ledger. It may import
// the ledger, the store and the transfer; node starts it.
package prefetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/transfer"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	// An image that could not be fetched is tried again after retryMin; each
	// failure doubles that, up to retryMax.
	retryMin = 2 * time.Second
	retryMax = 10 * time.Minute
	// imageTimeout bounds one try; what has arrived is kept for the next.
	imageTimeout = 30 * time.Minute
	// maxScan is from how many new blocks on the index is asked for the images
	// that match, and not each block.
	maxScan = 1024
	tags    = 1000 // asked for at a time
)

// Config says what is fetched, and by what.
type Config struct {
	Patterns []string // see ledger.Image.Matches
	Platform string   // of the manifests that are fetched: "linux/amd64"
	// Budget bounds what all fetched images have together, in bytes: the newest
	// come first. 0 is no bound.
	Budget  int64
	Ledger  *replica.Ledger
	Fetcher *transfer.Fetcher
	Store   *store.Store
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Prefetcher keeps the newest images that match in the store. The ledger says
// what to fetch and the store what is there: it has no state of its own.
type Prefetcher struct {
	Config
	failures prometheus.Counter
	skipped  prometheus.Counter

	mu     sync.Mutex // guards what follows, which Run alone changes
	wanted map[string]*image
}

// image is the newest block of an image that matches.
type image struct {
	block *ledger.Entry
	size  int64
	ready bool
	rest  time.Duration   // after the next failure
	due   time.Time       // when it is tried next
	has   []digest.Digest // once its manifests were read
}

// New makes a prefetcher and registers its metrics.
func New(c Config) *Prefetcher {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	p := &Prefetcher{
		Config: c, wanted: map[string]*image{},
		failures: counter("pyrsia_prefetch_failures_total", "Tries to prefetch an image that failed, and are repeated."),
		skipped:  counter("pyrsia_prefetch_skipped_images_total", "Images that match the patterns, and for which the budget is too small."),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	c.Metrics.MustRegister(p.failures, p.skipped,
		gauge("pyrsia_prefetch_wanted_images", "Images that match the patterns and are within the budget.", func() float64 { n, _ := p.count(); return float64(n) }),
		gauge("pyrsia_prefetch_ready_images", "Those of them that were fetched.", func() float64 { _, n := p.count(); return float64(n) }))
	return p
}

func (p *Prefetcher) count() (wanted, ready int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.wanted {
		if i.ready {
			ready++
		}
	}
	return len(p.wanted), ready
}

// Run works until ctx ends: one image at a time, the newest first.
func (p *Prefetcher) Run(ctx context.Context) {
	seen := int64(0)
	for ctx.Err() == nil {
		changed := p.Ledger.Changed()
		if size := p.Ledger.Size(); size > seen {
			if err := p.look(ctx, seen, size); err != nil {
				if ctx.Err() == nil {
					p.Log.Error("looking for images to prefetch", "error", err)
				}
				pause(ctx, nil, retryMin)
				continue
			}
			seen = size
		}
		next, wait := p.next(time.Now())
		if next == nil {
			pause(ctx, changed, wait)
			continue
		}
		p.try(ctx, next, seen)
	}
}

// pause waits until ctx ends, something has changed or the time is over.
func pause(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
}

// next is the newest image that is due, or how long to wait for one.
func (p *Prefetcher) next(now time.Time) (next *image, wait time.Duration) {
	wait = retryMax
	for _, i := range p.wanted {
		switch {
		case i.ready:
		case now.Before(i.due):
			wait = min(wait, i.due.Sub(now))
		case next == nil || i.block.Height > next.block.Height:
			next = i
		}
	}
	return next, wait
}

func (p *Prefetcher) try(ctx context.Context, i *image, seen int64) {
	name := i.block.Artifact.Artifact
	started := time.Now()
	bounded, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	err := p.fetch(bounded, i, seen)
	if ctx.Err() != nil || errors.Is(err, errNewer) {
		return
	}
	if err != nil {
		i.rest = min(max(retryMin, 2*i.rest), retryMax)
		i.due = time.Now().Add(i.rest/2 + rand.N(i.rest))
		p.failures.Inc()
		p.Log.Warn("an image could not be prefetched and is tried again", "image", name, "block", i.block.Height, "after", time.Until(i.due).Round(time.Second).String(), "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i.ready = true
	p.Log.Info("an image was prefetched", "image", name, "block", i.block.Height, "bytes", i.size, "took", time.Since(started).Round(time.Millisecond).String())
}

// look takes what the blocks from one height to another say about the images
// that match.
func (p *Prefetcher) look(ctx context.Context, from, to int64) error {
	blocks, err := p.matching(ctx, from, to)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range blocks {
		name := b.Artifact.Artifact
		own, fits := p.platformOf(b.Artifact)
		by, err := p.Ledger.RevokedIn(ctx, b, own.Digest)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if old := p.wanted[name]; old != nil && old.block.Height == b.Height && by == nil {
			continue
		}
		p.drop(name)
		if fits && by == nil {
			p.wanted[name] = &image{block: b, size: own.Size}
		}
	}
	p.keepToBudget()
	return nil
}

// matching are the newest blocks of the matching images among those that the
// blocks in a range of heights are about.
func (p *Prefetcher) matching(ctx context.Context, from, to int64) ([]*ledger.Entry, error) {
	var names []string
	var err error
	if to-from > maxScan {
		names, err = p.listed(ctx)
	} else {
		names, err = p.named(ctx, from, to)
	}
	if err != nil {
		return nil, err
	}
	var out []*ledger.Entry
	for _, name := range names {
		image, err := ledger.ParseImage(name)
		if err != nil || !image.Matches(p.Patterns) {
			continue
		}
		latest, err := p.Ledger.Latest(ctx, image)
		if errors.Is(err, ledger.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image, err)
		}
		out = append(out, latest)
	}
	return out, nil
}

// named are the images that blocks add or withdraw.
func (p *Prefetcher) named(ctx context.Context, from, to int64) (names []string, err error) {
	for height := from; height < to; height++ {
		b, err := p.Ledger.Entry(ctx, height)
		switch {
		case err != nil:
			return nil, err
		case b.Artifact != nil:
			names = append(names, b.Artifact.Artifact)
		case b.Revocation != nil:
			names = append(names, b.Revocation.Artifact)
		case b.Withdrawal != nil:
			of, err := p.tagsOf(ctx, b.Withdrawal.Repository) // of each, a platform may be concerned
			if err != nil {
				return nil, err
			}
			names = append(names, of...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// listed are all images of the ledger.
func (p *Prefetcher) listed(ctx context.Context) (names []string, err error) {
	for _, repository := range p.Ledger.Repositories() {
		of, err := p.tagsOf(ctx, repository)
		if err != nil {
			return nil, err
		}
		names = append(names, of...)
	}
	return names, nil
}

// tagsOf are all images of a repository.
func (p *Prefetcher) tagsOf(ctx context.Context, repository string) (names []string, err error) {
	for last := ""; ; {
		page, err := p.Ledger.Tags(ctx, repository, last, tags)
		if err != nil {
			return nil, err
		}
		for _, tag := range page {
			names = append(names, repository+":"+tag)
		}
		if len(page) < tags {
			return names, nil
		}
		last = page[len(page)-1]
	}
}

// keepToBudget wants no more than the newest images that fit; the caller
// holds mu.
func (p *Prefetcher) keepToBudget() {
	if p.Budget <= 0 {
		return
	}
	var all []*image
	for _, i := range p.wanted {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b *image) int { return cmp.Compare(b.block.Height, a.block.Height) })
	left := p.Budget
	for _, i := range all {
		if i.size <= left {
			left -= i.size
			continue
		}
		p.drop(i.block.Artifact.Artifact)
		p.skipped.Inc()
	}
}

// drop stops keeping an image. The parts that no client has used are evicted
// first when the store needs space. The caller holds mu.
func (p *Prefetcher) drop(name string) {
	old, ok := p.wanted[name]
	if !ok {
		return
	}
	delete(p.wanted, name)
	for _, d := range old.has {
		if !p.needed(d) {
			p.Store.Spare(d)
		}
	}
}

func (p *Prefetcher) needed(d digest.Digest) bool {
	for _, i := range p.wanted {
		if slices.Contains(i.has, d) {
			return true
		}
	}
	return false
}
