package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ErrRetiredKey is returned for a checkpoint that a key signed which has handed
// the ledger over.
var ErrRetiredKey = errors.New("signed by a retired key")

// errUnsigned is in the errors of what a key has signed that handed the ledger over,
// and the next one not. That proves no misuse: while both sign, anyone can take one
// signature off.
var errUnsigned = errors.New("the key to which the ledger was handed over has not signed it: fetch it from another peer")

// blame says whose doing it is that what the newest key signs contradicts what was
// verified: not the publisher's, if that key has handed the ledger over, and the one
// that follows has not signed. The others are asked before the publisher is convicted.
func (f *Follower) blame(ctx context.Context, t *trust, c ledger.Checkpoint, err error) error {
	newest := t.key()
	if len(f.heard.outside(t)) == 0 {
		if aerr := f.askOthers(ctx, &unaskedError{keys: []string{newest}, previous: []string{newest}}, growTimeout); aerr != nil {
			return errors.Join(err, aerr)
		}
	}
	handOvers := f.heard.outside(t)
	if len(handOvers) == 0 {
		return err
	}
	if len(handOvers) > 1 {
		return errors.Join(&twoSuccessorsError{handOvers}, err)
	}
	next := successorOf(handOvers[0])
	if v, kerr := ledger.NewVerifier(next); kerr == nil {
		if _, kerr = ledger.VerifyCheckpoint(v, c.Signed); kerr == nil {
			return err
		}
	}
	return fmt.Errorf("%w: %s has handed the ledger over to %s, so that it is not the publisher's doing: %w", ErrRetiredKey, newest, next, err)
}

// byRetired looks at what no key signed that counts. A peer may be behind, and
// have what a retired key signed while it counted. Whatever else such a key signs,
// or names as the next one, its holder is not the publisher.
func (f *Follower) byRetired(ctx context.Context, was *position, offer *offered, cause error) (ledger.Checkpoint, error) {
	e := ledger.Evidence{Kind: ledger.EvidenceBadSignature, Peer: offer.who, Received: string(offer.signed)}
	retired := was.trust.retired()
	if retired == nil {
		return ledger.Checkpoint{}, f.refuse(e, cause)
	}
	c, err := ledger.VerifyCheckpoint(retired, offer.signed)
	head, _ := was.at()
	if err == nil && c.Tree.N <= head.Tree.N {
		root, err := f.rootAt(ctx, head.Tree, c.Tree.N)
		if err != nil || root == c.Tree.Hash {
			return ledger.Checkpoint{}, err
		}
	}
	if err == nil {
		key := c.Signers[0]
		if c.Tree.N > head.Tree.N {
			key = f.signsNoMore(c.Signers)
		}
		if key != "" {
			e.Kind, e.Key = ledger.EvidenceRetiredKey, key
			return ledger.Checkpoint{}, f.refuse(e, fmt.Errorf("%w: %s, which has handed the ledger over: fetch it from another peer", ErrRetiredKey, key))
		}
		cause = fmt.Errorf("%w: %w", errUnsigned, cause)
	}
	for _, r := range offer.told {
		known := slices.Contains(was.trust.entries, r.Entry)
		if b, err := ledger.VerifyInclusion(retired, []byte(r.Entry), []byte(r.Proof)); err == nil && !known {
			e.Kind, e.Key, e.Rotations = ledger.EvidenceRetiredKey, b.Checkpoint.Signers[0], []ledger.Rotation{r}
			return ledger.Checkpoint{}, f.refuse(e, fmt.Errorf("%w: it names the key %s as the next one, after it has handed the ledger over", ErrRetiredKey, successorOf(r)))
		}
	}
	return ledger.Checkpoint{}, f.refuse(e, cause)
}

// signsNoMore is the first of some retired keys that has not signed what was verified
// last beside the key that counts; empty if all have, or nothing was verified.
func (f *Follower) signsNoMore(vkeys []string) string {
	last := f.mustContain()
	for _, vkey := range vkeys {
		v, err := ledger.NewVerifier(vkey)
		if err == nil && last != nil {
			if _, err := ledger.VerifyCheckpoint(v, last.Signed); err != nil {
				return vkey
			}
		}
	}
	return ""
}

// misused is the key that had handed over to the one that counts now, in the block at height, when
// the ledger on this disk was signed; empty if nothing proves that. The key that counts has not
// signed that ledger, and what the source tells leads to it from a key that signed or led to what
// is here. So a mirror that was misled by a retired key and is then given the publisher's comes
// back; and a retired key cannot do the same to the ledger of the key that counts, because that one
// never handed over to it.
func (f *Follower) misused(before *ledger.Checkpoint, told []ledger.Rotation) (key string, height int64) {
	trusted := f.now().trust
	if _, err := ledger.VerifyCheckpoint(trusted.newest, before.Signed); err == nil || f.restoring {
		return "", 0
	}
	for _, r := range told {
		e, err := ledger.ParseRotation([]byte(r.Entry))
		if err != nil || !f.ledTo(before, e.Previous) {
			continue
		}
		v, err := ledger.NewVerifier(e.Previous)
		if err == nil {
			v, err = v.With(r) // of two that it names, this one
		}
		if err == nil && v.WithAll(told).Trusts(trusted.key()) {
			return e.Previous, heightOf(r)
		}
	}
	return "", 0
}

// ledTo tells whether a key signed the ledger on this disk, or led to its signer.
func (f *Follower) ledTo(before *ledger.Checkpoint, vkey string) bool {
	f.recording.Lock()
	keys := f.record
	f.recording.Unlock()
	if keys != nil && slices.Contains(keys.Keys, vkey) && keys.newest() != f.now().trust.key() {
		return true
	}
	v, err := ledger.NewVerifier(vkey)
	if err == nil {
		_, err = ledger.VerifyCheckpoint(v, before.Signed)
	}
	return err == nil
}

// adoptInstead moves the ledger of a retired key away, and adopts a checkpoint of
// the key that counts in its place.
func (f *Follower) adoptInstead(ctx context.Context, before *ledger.Checkpoint, c ledger.Checkpoint, offer *offered) (grown bool, err error) {
	if err := f.setAside(ctx, before, offer); err != nil {
		return false, err
	}
	err = f.adopt(ctx, ledger.Checkpoint{}, c, offer, true)
	return err == nil, f.refuseOffer(ctx, c, offer, err)
}

// setAside keeps the evidence of a ledger that a retired key signed, and moves it
// away. No tiles are copied meanwhile.
func (f *Follower) setAside(ctx context.Context, before *ledger.Checkpoint, offer *offered) error {
	f.moving.Lock()
	defer f.moving.Unlock()
	for range maxCopying {
		select {
		case f.copying <- struct{}{}:
			defer func() { <-f.copying }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.before.Load() != before || f.now().head != nil {
		return nil // another call has
	}
	key, _ := f.misused(before, offer.told)
	folder := "refused-" + time.Now().UTC().Format("20060102T150405Z")
	message := fmt.Sprintf("the ledger of %d blocks that was on this disk is signed by a key that had handed it over, %s, or by one that it named beside the publisher's: what was served of it may be a thief's; it is in the folder %s, which you can remove", before.Tree.N, key, folder)
	// Crash after: the alarm is raised, and the next sync sets the ledger aside.
	if err := f.keepEvidence(ledger.Evidence{Kind: ledger.EvidenceRetiredKey, Peer: "this disk", Key: key, Received: string(before.Signed), Message: message}); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.moveAway(folder); err != nil {
		return fmt.Errorf("%w: setting a ledger aside: %w", errStorage, err)
	}
	f.cache.tiles.Purge()
	f.indexed = tlog.Tree{N: -1}
	if err := f.index.Keep(0, 0, nil); err != nil {
		return err
	}
	f.before.Store(nil)
	f.log.Error(message, "alarm", true, "key", key)
	return nil
}

// moveAway moves the checkpoint and the tiles to a folder in the ledger's own.
func (f *Follower) moveAway(folder string) error {
	to := filepath.Join(f.dir.path, folder)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, name := range []string{checkpointFile, "tile"} {
		// Crash between: tiles without a checkpoint, which the next sync replaces.
		if err := os.Rename(filepath.Join(f.dir.path, name), filepath.Join(to, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := errors.Join(durable.SyncDir(to), durable.SyncDir(f.dir.path)); err != nil {
			return err
		}
	}
	return nil
}
