package mirror

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// lookAgain is the least time between two looks at the piece lists in the store.
const lookAgain = time.Second

// Withheld tells which content a node does not hand out by its digest alone,
// because each block that leads to it is withdrawn. Manifests and configs are in
// the ledger's index, which is asked each time. Layers are in piece lists: those
// in the store are looked through after each withdrawal. Piece lists themselves
// are handed out, so that others can tell what is withdrawn.
type Withheld struct {
	ledger *replica.Ledger
	store  *store.Store
	log    *slog.Logger

	layers atomic.Pointer[map[digest.Digest]*ledger.Entry] // withheld, by which block

	mu     sync.Mutex // guards what follows
	seen   int64      // blocks of the ledger that were looked at
	unread []int64    // blocks that stand, whose piece list was not in the store
	looked time.Time  // when the store was last asked for those
}

// NewWithheld makes it for a node of either role.
func NewWithheld(l *replica.Ledger, s *store.Store, log *slog.Logger) *Withheld {
	w := &Withheld{ledger: l, store: s, log: log}
	w.layers.Store(&map[digest.Digest]*ledger.Entry{})
	return w
}

// Run looks at what the ledger withdraws until ctx ends.
func (w *Withheld) Run(ctx context.Context) {
	for {
		changed := w.ledger.Changed()
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("looking for the layers of withdrawn images", "error", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		select { // withdrawals come together
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return
		}
	}
}

// Check returns a *ledger.WithdrawnError for what is withheld.
func (w *Withheld) Check(ctx context.Context, d digest.Digest) error {
	some, err := w.ledger.WithdrawsAny()
	if err != nil || !some {
		return err
	}
	var by *ledger.Entry
	n := 0
	for e, err := range w.ledger.Naming(ctx, d) {
		if err != nil {
			return err
		}
		if n++; n > maxBlocks || e.Artifact.Pieces == d {
			break
		}
		revoked, err := w.ledger.RevokedIn(ctx, e, d)
		if err != nil || revoked == nil {
			return err
		}
		if by == nil {
			by = revoked
		}
	}
	if n == 0 {
		by = (*w.layers.Load())[d]
	}
	if by != nil && n == 0 && w.publishedAgain(ctx, d) {
		by = nil
	}
	if by == nil {
		return nil
	}
	return &ledger.WithdrawnError{By: by}
}

// publishedAgain looks whether a layer that is withheld is of an image that came since,
// or whose piece list did.
func (w *Withheld) publishedAgain(ctx context.Context, d digest.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	if w.seen < w.ledger.Size() {
		err = w.lookLocked(ctx)
	} else if time.Since(w.looked) >= lookAgain {
		layers := maps.Clone(*w.layers.Load())
		err = w.read(ctx, w.unread, layers)
		w.layers.Store(&layers)
		w.looked = time.Now()
	}
	if err != nil {
		w.log.Error("looking for the layers of withdrawn images", "error", err)
		return false
	}
	return (*w.layers.Load())[d] == nil
}

func (w *Withheld) look(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lookLocked(ctx)
}

// lookLocked takes in what the ledger says since the last time. After a
// withdrawal all is done anew: they are rare. The caller holds mu.
func (w *Withheld) lookLocked(ctx context.Context) error {
	size := w.ledger.Size()
	withdrawn, err := w.ledger.Withdrawals(ctx, w.seen)
	if err != nil {
		return err
	}
	from, layers := w.seen, *w.layers.Load()
	if len(withdrawn) > 0 {
		from, w.unread, layers = 0, nil, map[digest.Digest]*ledger.Entry{}
		if withdrawn, err = w.ledger.Withdrawals(ctx, 0); err != nil {
			return err
		}
		for _, by := range withdrawn {
			if err := w.suspect(ctx, by, layers); err != nil {
				return err
			}
		}
	}
	if len(layers) > 0 {
		layers = maps.Clone(layers)
		heights := slices.Clone(w.unread)
		for h := from; h < size; h++ {
			heights = append(heights, h)
		}
		if err := w.read(ctx, heights, layers); err != nil {
			return err
		}
	}
	w.seen, w.looked = size, time.Now()
	w.layers.Store(&layers)
	return nil
}

// suspect adds what the blocks have that one withdraws.
func (w *Withheld) suspect(ctx context.Context, by *ledger.Entry, layers map[digest.Digest]*ledger.Entry) error {
	repository, d := by.Withdraws()
	for e, err := range w.ledger.Naming(ctx, d) {
		if err != nil {
			return err
		}
		if e.Artifact.Repository() != repository {
			continue
		}
		revoked, err := w.ledger.RevokedIn(ctx, e, d)
		if err != nil {
			return err
		}
		if revoked == nil {
			continue
		}
		content := e.Artifact.Pieces
		if e.Artifact.Digest != d {
			content = d // a platform's manifest
		}
		err = w.digests(ctx, content, func(blob digest.Digest) { layers[blob] = revoked })
		if err != nil {
			return err
		}
	}
	return nil
}

// read takes out of the layers what blocks vouch for that stand, and remembers
// the blocks whose piece list is not in the store.
func (w *Withheld) read(ctx context.Context, heights []int64, layers map[digest.Digest]*ledger.Entry) error {
	var unread []int64
	for _, height := range heights {
		e, err := w.ledger.Entry(ctx, height)
		if err != nil {
			return err
		}
		if e.Artifact == nil {
			continue
		}
		if !w.store.Has(e.Artifact.Pieces) {
			unread = append(unread, height)
			continue
		}
		by, err := w.ledger.RevokedBy(ctx, e)
		if err == nil && by == nil {
			err = w.keep(ctx, e, layers)
		}
		if err != nil {
			return err
		}
	}
	w.unread = unread
	return nil
}

// keep removes from the layers those of a block that is not withdrawn, except
// for layers that only its withdrawn platforms have.
func (w *Withheld) keep(ctx context.Context, e *ledger.Entry, layers map[digest.Digest]*ledger.Entry) error {
	platforms, err := w.ledger.WithdrawnPlatforms(ctx, e)
	if err != nil {
		return err
	}
	withdrawn := map[digest.Digest]bool{}
	for manifest := range platforms {
		if err := w.digests(ctx, manifest, func(d digest.Digest) { withdrawn[d] = true }); err != nil {
			return err
		}
	}
	for _, p := range e.Artifact.Platforms {
		if len(platforms) > 0 && platforms[p.Digest] == nil {
			if err := w.digests(ctx, p.Digest, func(d digest.Digest) { delete(withdrawn, d) }); err != nil {
				return err
			}
		}
	}
	return w.digests(ctx, e.Artifact.Pieces, func(d digest.Digest) {
		if !withdrawn[d] {
			delete(layers, d)
		}
	})
}

// digests finds all digests in a piece list or a manifest, if it is in the
// store. It does not parse them: a publisher has tens of thousands.
func (w *Withheld) digests(ctx context.Context, content digest.Digest, found func(digest.Digest)) error {
	if !w.store.Has(content) {
		return nil
	}
	data, err := w.store.ReadAll(ctx, content, pieces.MaxList)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.log.Warn("a piece list or manifest cannot be read", "digest", content, "error", err)
		return nil
	}
	const length = len("sha256:") + 64
	for {
		at := bytes.Index(data, []byte(`"sha256:`))
		if at < 0 || len(data) < at+1+length {
			return nil
		}
		if d := digest.Digest(data[at+1:][:length]); ledger.CheckDigest(d) == nil {
			found(d)
		}
		data = data[at+1+length:]
	}
}
