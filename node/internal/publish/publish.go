// Package publish is a publisher's work: a queue of images that are copied from
// their upstreams, recorded on the ledger, and withdrawn. It may import the
// control API's types, catalog, upstream, pieces, the store and the ledger;
// node calls it.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/catalog"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	concurrency = 8 // images copied in parallel, by default
	maxJobs     = 4096
	copyTimeout = 2 * time.Hour
	// quickWait is for how long after the work has begun Publish waits for its end:
	// most images need one call, and the control API's own time-out is longer.
	quickWait = 10 * time.Second
)

// Config is what a publisher works with.
type Config struct {
	Writer *replica.Writer
	Store  *store.Store
	// Upstreams maps a registry's name to its URL, and SecretDir holds a folder
	// for each one with secrets: see upstream.Config.
	Upstreams map[string]string
	SecretDir string
	// Private are patterns of the repositories that are published although only
	// their upstream's login can read them: "ghcr.io/owner/*".
	Private []string
	// Concurrency is how many images are copied in parallel; 0 is the default.
	Concurrency int
	// Bandwidth bounds the downloads from all upstreams together, in bytes per
	// second; 0 means unlimited.
	Bandwidth int64
	// AttachmentsEvery is how often is looked for signatures and attestations
	// that came after their image; 0 is once a day.
	AttachmentsEvery time.Duration
	// StateFile remembers whose content was dropped.
	StateFile string
	Provide   func(digest.Digest) // tells the network of new content
	OnPull    OnPull
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Publisher publishes images. It is safe for concurrent use.
type Publisher struct {
	Config
	upstreams map[string]*upstream.Registry // by registry name: "docker.io"
	lister    *catalog.Lister
	metrics   *metrics
	dropped   *dropped
	pulls     pulls
	looked    *lru.Cache[key, time.Time] // when the next look at an image's attachments is due
	sightings *sightings
	ahead     *rate.Limiter // of withdrawals of what was not published

	stop    context.CancelFunc // ends all jobs
	done    sync.WaitGroup     // of run and of the jobs that it started
	begin   chan *job          // that may run now; has room for as many as run
	content sync.RWMutex       // read-held while a job relies on what the store has

	mu     sync.Mutex // guards what follows
	closed bool       // no job starts any more
	jobs   map[key]*job
	queue  queue
	looks  int // jobs that look for attachments
}

type key struct {
	image  string
	digest digest.Digest
}

// job is one publication under way, or its failure until somebody has heard it.
type job struct {
	key       key
	image     ledger.Image
	registry  *upstream.Registry
	platforms []string
	terms     terms
	claim     *claim        // of a publication on demand; nil: of another
	block     *ledger.Entry // whose attachments are looked for; nil: the image is published
	recorded  *ledger.Entry // whose content is fetched again; nil: a block is made
	progress  upstream.Progress
	// Owned by the job: what its block says of the tag, and the ledger's size
	// before the signatures' tags were asked for.
	word       word
	attachedAt int64
	begun      time.Time // zero while it waits in the queue; the publisher's mu guards it
	ended      chan struct{}
	height     int64 // after ended, of the block
	err        error // after ended
}

// New makes a publisher.
func New(c Config) (*Publisher, error) {
	p := &Publisher{Config: c, upstreams: map[string]*upstream.Registry{}, jobs: map[key]*job{}, pulls: newPulls(c.OnPull)}
	p.AttachmentsEvery = cmp.Or(c.AttachmentsEvery, attachmentsEvery)
	p.queue.limit = cmp.Or(max(c.Concurrency, 0), concurrency)
	p.metrics = newMetrics(p)
	limit := upstream.NewLimit(c.Bandwidth)
	for _, written := range slices.Sorted(maps.Keys(c.Upstreams)) {
		name, err := ledger.CanonicalRegistry(written)
		if err != nil || written != name && c.Upstreams[name] != "" {
			p.Log.Warn("an upstream is not used: it has no registry's name, or an upstream under the registry's usual name is given too", "upstream", written, "error", err)
			continue
		}
		config := upstream.Config{Name: name, Endpoint: c.Upstreams[written], Private: privateOf(name, c.Private), Limit: limit, Observe: p.metrics.observe, AttachedFor: min(upstream.AttachedFor, p.AttachmentsEvery/2)}
		if c.SecretDir != "" {
			config.SecretDir = filepath.Join(c.SecretDir, SecretFolder(written))
		}
		r, err := upstream.New(config)
		if err != nil {
			return nil, err
		}
		p.upstreams[name] = r
	}
	var err error
	if p.looked, err = lru.New[key, time.Time](maxLooked); err != nil {
		return nil, err
	}
	if p.sightings, err = newSightings(); err != nil {
		return nil, err
	}
	if p.dropped, err = openDropped(c.StateFile); err != nil {
		return nil, err
	}
	p.ahead = rate.NewLimiter(rate.Every(aheadEvery), aheadAtOnce)
	p.lister = catalog.NewLister(p.tags)
	p.begin = make(chan *job, p.queue.limit)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.done.Go(func() { p.run(ctx) })
	return p, nil
}

// privateOf are those patterns that are of a registry, without its name.
func privateOf(registry string, patterns []string) (out []string) {
	for _, p := range patterns {
		of, repository, _ := strings.Cut(p, "/")
		if name, err := ledger.CanonicalRegistry(of); err == nil && name == registry {
			out = append(out, repository)
		}
	}
	return out
}

// CheckPrivate refuses a pattern of Config.Private that can match no repository.
func CheckPrivate(pattern string) error {
	registry, repository, _ := strings.Cut(pattern, "/")
	_, err := ledger.CanonicalRegistry(registry)
	if _, perr := path.Match(repository, ""); err != nil || perr != nil || repository == "" {
		return fmt.Errorf("pattern of private repositories %q: want one such as \"ghcr.io/owner/*\"", pattern)
	}
	return nil
}

// SecretFolder is the folder of a registry's secrets: its name without a
// colon, which a mount path cannot have.
func SecretFolder(registry string) string { return strings.ReplaceAll(registry, ":", "_") }

// Close ends the work under way; it is done again when it is asked for again.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.done.Wait()
}

// Resolve asks the upstream to which digest a tag points.
func (p *Publisher) Resolve(ctx context.Context, req control.ResolveRequest) (*control.ResolveResponse, error) {
	image, registry, err := p.upstream(req.Image)
	if err != nil {
		return nil, err
	}
	seen, err := p.look(ctx, image, registry)
	if err != nil {
		return nil, p.refusal(err, image, registry)
	}
	p.sightings.note(image, seen)
	d := seen.digest
	resp := &control.ResolveResponse{Digest: d.String(), RateLimit: rateLimit(registry.Limits())}
	latest, err := p.Writer.Latest(ctx, image)
	if err == nil {
		resp.Current = latest.Artifact.Digest.String()
		if latest.Artifact.Digest == d {
			p.lookAgain(latest, image, registry)
		}
	}
	if errors.Is(err, ledger.ErrNotFound) {
		err = nil
	}
	return resp, err
}

func rateLimit(l upstream.Limits) *control.RateLimit {
	wait := max(0, int(time.Until(l.Until).Seconds()))
	if l.Limit == 0 && wait == 0 {
		return nil
	}
	return &control.RateLimit{Limit: l.Limit, Remaining: l.Remaining, WindowSeconds: int(l.Window.Seconds()), RetryAfterSeconds: wait}
}

// List finds the images of a selection.
func (p *Publisher) List(ctx context.Context, req control.ListRequest) (*control.ListResponse, error) {
	return p.lister.List(ctx, req.Selection)
}

// tags lists the tags of a repository for the lister.
func (p *Publisher) tags(ctx context.Context, repository string) ([]string, error) {
	image, registry, err := p.upstream(repository)
	if err != nil {
		return nil, err
	}
	tags, err := registry.Tags(ctx, image.Repository)
	if err != nil {
		return nil, p.refusal(err, image, registry)
	}
	return tags, nil
}

func (p *Publisher) upstream(name string) (ledger.Image, *upstream.Registry, error) {
	image, err := ledger.ParseImage(name)
	if err != nil {
		return ledger.Image{}, nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	r, ok := p.upstreams[image.Registry]
	if !ok {
		return ledger.Image{}, nil, &control.Error{Reason: control.ReasonInvalidRequest,
			Message: fmt.Sprintf("%s: the publisher has no upstream for registry %s: add it to spec.publisher.upstreams", image, image.Registry)}
	}
	return image, r, nil
}

// Publish starts a publication, or tells how far it is.
func (p *Publisher) Publish(ctx context.Context, req control.PublishRequest) (*control.PublishResponse, error) {
	image, registry, err := p.upstream(req.Image)
	if err != nil {
		return nil, err
	}
	k := key{image.String(), digest.Digest(req.Digest)}
	if err := ledger.CheckDigest(k.digest); err != nil {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	if err := p.checkFloor(ctx, req.Floor); err != nil {
		return nil, err
	}
	if err := p.dropped.forget(k); err != nil {
		return nil, err
	}
	short, cancel := context.WithTimeout(ctx, quickWait)
	defer cancel()
	for {
		wanted := &job{key: k, image: image, registry: registry, platforms: req.Platforms, terms: terms{seen: req.Seen, pinned: req.Pinned}}
		if resp, err := p.existing(ctx, wanted); resp != nil || err != nil {
			return resp, err
		}
		j, err := p.start(wanted)
		if err != nil {
			return nil, err
		}
		began := p.began(j)
		if began.IsZero() { // how long others take is unknown: do not wait for them
			return &control.PublishResponse{Queued: true}, nil
		}
		wait, cancel := context.WithDeadline(short, began.Add(quickWait))
		select {
		case <-j.ended:
		case <-wait.Done():
		}
		cancel()
		if !j.over() {
			return &control.PublishResponse{BytesDone: j.progress.Done.Load(), BytesTotal: j.progress.Total.Load()}, nil
		}
		p.forget(j) // the next request starts again
		switch {
		case !j.asksFor(wanted):
			// Somebody else's: it may have made less than what is asked for here, or
			// failed for what is not.
		case j.err != nil:
			return nil, p.refusal(j.err, image, registry)
		default:
			return p.block(ctx, j.height)
		}
	}
}

// asksFor tells whether a job's outcome is that of another one too.
func (j *job) asksFor(o *job) bool {
	return j.terms == o.terms && slices.Equal(j.platforms, o.platforms)
}
