// Package publish copies images from their upstreams and records them on the
// ledger: what a publisher is for.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	concurrency = 2 // images copied at once
	maxJobs     = 4096
	copyTimeout = 2 * time.Hour
	// quickWait is how long Publish waits for work that may end at once.
	quickWait = 500 * time.Millisecond
)

// Publisher publishes images. It is safe for concurrent use.
type Publisher struct {
	writer    *ledger.Writer
	store     *store.Store
	upstreams map[string]*upstream.Registry // by registry name: "docker.io"
	provide   func(digest.Digest)           // tells the network of new content
	log       *slog.Logger

	ctx   context.Context // of all jobs
	stop  context.CancelFunc
	done  sync.WaitGroup
	slots chan struct{} // one per image that may be copied at a time

	mu   sync.Mutex // guards jobs
	jobs map[key]*job
}

type key struct {
	image  string
	digest digest.Digest
}

// job is one publication under way, or its failure until somebody has heard it.
type job struct {
	progress upstream.Progress
	ended    chan struct{}
	height   int64 // after ended, of the block
	err      error // after ended
}

// New makes a publisher; upstreams maps a registry's name to its URL.
func New(w *ledger.Writer, s *store.Store, upstreams map[string]string, provide func(digest.Digest), log *slog.Logger) (*Publisher, error) {
	p := &Publisher{
		writer: w, store: s, upstreams: map[string]*upstream.Registry{}, provide: provide, log: log,
		slots: make(chan struct{}, concurrency), jobs: map[key]*job{},
	}
	for name, endpoint := range upstreams {
		r, err := upstream.New(endpoint)
		if err != nil {
			return nil, err
		}
		p.upstreams[name] = r
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Close ends the work under way; it is done again when it is asked for again.
func (p *Publisher) Close() {
	p.stop()
	p.done.Wait()
}

// Resolve asks the upstream to which digest a tag points.
func (p *Publisher) Resolve(ctx context.Context, req control.ResolveRequest) (*control.ResolveResponse, error) {
	image, registry, err := p.upstream(req.Image)
	if err != nil {
		return nil, err
	}
	d, err := registry.Resolve(ctx, image)
	if err != nil {
		return nil, refusal(err, image, registry)
	}
	resp := &control.ResolveResponse{Digest: d.String()}
	latest, err := p.writer.Latest(ctx, image)
	if err == nil {
		resp.Current = latest.Artifact.Digest.String()
	}
	if errors.Is(err, ledger.ErrNotFound) {
		err = nil
	}
	return resp, err
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
	if req.Floor != "" {
		if err := p.writer.CheckFloor(ctx, []byte(req.Floor)); err != nil {
			return nil, &control.Error{Reason: control.ReasonLedgerBehind,
				Message: fmt.Sprintf("%v: restore the publisher's volume, or copy the ledger back from a mirror", err)}
		}
	}
	latest, err := p.writer.Latest(ctx, image)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	if err == nil && latest.Artifact.Digest == k.digest {
		return p.existing(ctx, latest)
	}
	j, err := p.start(k, image, registry)
	if err != nil {
		return nil, err
	}
	select {
	case <-j.ended:
	case <-time.After(quickWait):
	case <-ctx.Done():
	}
	if !j.over() {
		return &control.PublishResponse{BytesDone: j.progress.Done.Load(), BytesTotal: j.progress.Total.Load()}, nil
	}
	p.forget(k, j) // whoever asks again starts again
	if j.err != nil {
		return nil, refusal(j.err, image, registry)
	}
	return p.block(ctx, j.height)
}

// existing answers with a block that is there, unless it was withdrawn: what
// is revoked is not published again by accident.
func (p *Publisher) existing(ctx context.Context, e *ledger.Entry) (*control.PublishResponse, error) {
	by, err := p.writer.RevokedBy(ctx, e)
	if err != nil {
		return nil, err
	}
	if by != nil {
		return nil, &control.Error{Reason: control.ReasonRevoked,
			Message: fmt.Sprintf("%s@%s was withdrawn in block %d (%s): publish another digest", e.Artifact.Artifact, e.Artifact.Digest, by.Height, by.Revocation.Reason)}
	}
	return p.block(ctx, e.Height)
}

func (p *Publisher) block(ctx context.Context, height int64) (*control.PublishResponse, error) {
	b, proof, err := p.writer.Block(ctx, height)
	if err != nil {
		return nil, err
	}
	return &control.PublishResponse{Block: &control.Block{Height: height, Entry: string(b.Data), Proof: string(proof)}}, nil
}

func (p *Publisher) start(k key, image ledger.Image, registry *upstream.Registry) (*job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j, ok := p.jobs[k]; ok {
		return j, nil
	}
	if len(p.jobs) >= maxJobs {
		maps.DeleteFunc(p.jobs, func(_ key, j *job) bool { return j.over() }) // failures that nobody asks for any more
	}
	if len(p.jobs) >= maxJobs || p.ctx.Err() != nil {
		return nil, &control.Error{Reason: control.ReasonInternal, Message: "the publisher has enough to do: ask again later"}
	}
	j := &job{ended: make(chan struct{})}
	p.jobs[k] = j
	p.done.Go(func() {
		defer close(j.ended)
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-p.ctx.Done():
			j.err = p.ctx.Err()
			return
		}
		if j.height, j.err = p.run(k, image, registry, &j.progress); j.err == nil {
			p.forget(k, j) // the ledger tells from now on
		}
	})
	return j, nil
}

func (p *Publisher) forget(k key, j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jobs[k] == j {
		delete(p.jobs, k)
	}
}

// over tells whether the job has ended.
func (j *job) over() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

// run copies the image and then appends its block. Crash before the append:
// blobs without a block, which the next attempt finds in the store.
func (p *Publisher) run(k key, image ledger.Image, registry *upstream.Registry, progress *upstream.Progress) (int64, error) {
	ctx, cancel := context.WithTimeout(p.ctx, copyTimeout)
	defer cancel()
	started := time.Now()
	entry, err := registry.Copy(ctx, image, k.digest, p.store, progress)
	if err != nil {
		p.log.Warn("publication failed", "image", k.image, "digest", k.digest, "error", err)
		return 0, err
	}
	entry.Time = time.Now().UTC().Truncate(time.Second)
	p.provide(entry.Pieces)
	height, err := p.writer.Append(ctx, entry)
	if err != nil {
		return 0, err
	}
	p.log.Info("published", "image", k.image, "digest", k.digest, "block", height,
		"bytes", progress.Total.Load(), "took", time.Since(started).Round(time.Millisecond).String())
	return height, nil
}

// refusal says to the operator what went wrong upstream, and what to do.
func refusal(err error, image ledger.Image, r *upstream.Registry) error {
	u, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		return err
	}
	cause := u.Cause()
	switch u.Kind {
	case upstream.NotFound:
		return &control.Error{Reason: control.ReasonImageNotFound,
			Message: fmt.Sprintf("%s does not exist at %s: check the repository and the tag (%v)", image, r.Host(), cause)}
	case upstream.Unauthorized:
		return &control.Error{Reason: control.ReasonUpstreamUnauthorized,
			Message: fmt.Sprintf("%s wants a login for %s, or has no such repository: check its name (%v)", r.Host(), image, cause)}
	case upstream.RateLimited:
		return &control.Error{Reason: control.ReasonUpstreamRateLimited, RetryAfterSeconds: 60,
			Message: fmt.Sprintf("%s limits the rate of requests: the operator tries again later (%v)", r.Host(), cause)}
	case upstream.Invalid:
		return &control.Error{Reason: control.ReasonUpstreamInvalid,
			Message: fmt.Sprintf("%s sent content that was refused: %v", r.Host(), u)}
	default:
		return &control.Error{Reason: control.ReasonUpstreamUnavailable,
			Message: fmt.Sprintf("%s cannot be reached: check spec.publisher.upstreams and the network (%v)", r.Host(), cause)}
	}
}
