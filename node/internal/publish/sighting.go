package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	// maxSightings bounds the tags of which is remembered where they pointed.
	maxSightings = 1 << 16
	// freshFor is how long an upstream's answer about a tag counts as what it
	// says now: so one request resolves a tag, and serves its publication too.
	freshFor = 15 * time.Minute
	// maxRecords bounds how often a publication that a newer block overtook asks
	// its tag again.
	maxRecords = 3
)

// sighting is where an upstream said that a tag points.
type sighting struct {
	digest digest.Digest
	at     time.Time // when it was asked
	size   int64     // of the ledger, before it was asked: blocks from this one on are newer
}

// sightings are the newest ones of each tag. They are in memory alone: after a
// restart the upstream is asked again, and what was seen before does not count.
type sightings struct {
	mu   sync.Mutex // guards tags: a late answer does not replace a newer one
	tags *lru.Cache[string, sighting]
}

func newSightings() (*sightings, error) {
	tags, err := lru.New[string, sighting](maxSightings)
	if err != nil {
		return nil, err
	}
	return &sightings{tags: tags}, nil
}

func (s *sightings) of(image ledger.Image) (sighting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags.Get(image.String())
}

func (s *sightings) note(image ledger.Image, seen sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.tags.Peek(image.String()); !ok || seen.at.After(old.at) {
		s.tags.Add(image.String(), seen)
	}
}

// look asks the upstream where a tag points now.
func (p *Publisher) look(ctx context.Context, image ledger.Image, registry *upstream.Registry) (sighting, error) {
	seen := sighting{at: time.Now(), size: p.Writer.Size()}
	var err error
	seen.digest, err = registry.Resolve(ctx, image)
	return seen, err
}

// newer tells whether a tag was seen at a digest after its newest block was made.
func (p *Publisher) newer(ctx context.Context, image ledger.Image, d digest.Digest) (sighting, bool, error) {
	seen, ok := p.sightings.of(image)
	if !ok || seen.digest != d {
		return seen, false, nil
	}
	latest, err := p.Writer.Latest(ctx, image)
	if errors.Is(err, ledger.ErrNotFound) {
		return seen, true, nil
	}
	return seen, err == nil && latest.Height < seen.size, err
}

// vouch decides what the job's block will say of the tag, by what the upstream
// says: that it points to the digest; else, for an image set that saw it there
// before, when that was; else, if the Artifact says so openly, that the tag is
// the publisher's own. It refuses all others, and every digest that the
// repository does not have.
func (p *Publisher) vouch(ctx context.Context, j *job) error {
	before, is, err := p.newer(ctx, j.image, j.key.digest)
	if err != nil {
		return err
	}
	j.word = word{sighting: before}
	if is && time.Since(before.at) < freshFor {
		return nil
	}
	now, err := p.look(ctx, j.image, j.registry)
	if err != nil && !upstream.IsNotFound(err) { // no tag is an answer
		return err
	}
	if now.digest == j.key.digest {
		p.sightings.note(j.image, now)
		j.word.sighting = now
		return nil
	}
	there, err := j.registry.Has(ctx, j.image, j.key.digest)
	if err != nil {
		return err
	}
	if !there {
		return j.notThere(now.digest)
	}
	switch {
	case j.terms.pinned:
		j.word = word{sighting: now, pinned: true}
	case j.terms.seen && is:
		j.word.seenAt = before.at
	case j.terms.seen:
		return &control.Error{Reason: control.ReasonSuperseded,
			Message: fmt.Sprintf("%s, and was not seen at %s since its newest block: nothing is to do", j.points(now.digest), j.key.digest)}
	default:
		return &control.Error{Reason: control.ReasonTagPointsElsewhere,
			Message: fmt.Sprintf("%s, not to %s: give the digest that the tag has, or say with spec.pinned that the tag is yours", j.points(now.digest), j.key.digest)}
	}
	return nil
}

// points says where the upstream's tag points; nowhere, if d is empty.
func (j *job) points(d digest.Digest) string {
	if d == "" {
		return fmt.Sprintf("%s says that there is no %s", j.registry.Host(), j.image)
	}
	return fmt.Sprintf("%s says that %s points to %s", j.registry.Host(), j.image, d)
}

func (j *job) notThere(now digest.Digest) error {
	if now == "" {
		return &control.Error{Reason: control.ReasonImageNotFound,
			Message: fmt.Sprintf("%s does not exist at %s, nor has that repository the digest %s: check the repository and the tag%s", j.image, j.registry.Host(), j.key.digest, withoutLogin(j.image, j.registry))}
	}
	return &control.Error{Reason: control.ReasonDigestNotInRepository,
		Message: fmt.Sprintf("%s, and that %s has no %s at all: an image of another repository cannot be published under this name", j.points(now), j.image.Name(), j.key.digest)}
}

// terms are what a request lets a publication do where the tag points elsewhere.
type terms struct{ seen, pinned bool }

// word is what a block says of its tag: that it pointed there when the block
// was made, unless it was seen there before, or is pinned.
type word struct {
	sighting
	seenAt time.Time
	pinned bool
}

// excused tells whether the block says why the tag points elsewhere.
func (w word) excused() bool { return w.pinned || !w.seenAt.IsZero() }

// write puts it into an entry.
func (w word) write(e *ledger.AddArtifact) {
	e.Time = time.Now().UTC().Truncate(time.Second)
	e.Version, e.SeenAt, e.Pinned = 1, time.Time{}, w.pinned
	if w.excused() {
		e.Version = 2
	}
	if w.seenAt.IsZero() {
		return
	}
	e.SeenAt = w.seenAt.UTC().Truncate(time.Second)
	if e.SeenAt.After(e.Time) { // the clock was put back meanwhile
		e.SeenAt = e.Time
	}
}

// record appends a job's own block. The tag is asked again if the copy took
// long, or the image got another block since the tag was seen.
func (p *Publisher) record(ctx context.Context, j *job, e *ledger.AddArtifact) (int64, error) {
	for attempt := 1; ; attempt++ {
		if attempt > 1 || !j.word.excused() && time.Since(j.word.at) >= freshFor {
			if err := p.vouch(ctx, j); err != nil {
				return 0, err
			}
		}
		j.word.write(e)
		height, err := p.Writer.AppendAfter(ctx, e, j.word.size)
		if !errors.Is(err, replica.ErrSuperseded) {
			return height, err
		}
		if attempt == maxRecords || j.word.excused() {
			return 0, &control.Error{Reason: control.ReasonSuperseded, Message: err.Error()}
		}
	}
}
