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
	if err := f.index.keep(0, 0, nil); err != nil {
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
