package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Drop frees the content of images that no other image needs. Their blocks
// stay on the ledger.
func (p *Publisher) Drop(ctx context.Context, req control.DropRequest) (*control.DropResponse, error) {
	if len(req.Artifacts) > control.MaxDrop {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: fmt.Sprintf("%d artifacts: at most %d", len(req.Artifacts), control.MaxDrop)}
	}
	// Jobs rely on what the store has; they end, and then this goes on.
	if !p.content.TryLock() {
		return nil, &control.Error{Reason: control.ReasonBusy, RetryAfterSeconds: 5, Message: "images are being published: content is dropped after that"}
	}
	defer p.content.Unlock()
	keys, err := p.onLedger(ctx, req.Artifacts)
	if err != nil {
		return nil, err
	}
	// Crash after this: unneeded content, until it is dropped again.
	if err := p.dropped.add(keys); err != nil {
		return nil, err
	}
	needed, unneeded, err := p.lists(ctx, keys)
	if err != nil {
		return nil, err
	}
	keep := map[digest.Digest]bool{}
	for list := range needed {
		keep[list] = true
		blobs, err := p.blobs(ctx, list)
		if err != nil {
			return nil, err
		}
		for _, b := range blobs {
			keep[b.Digest] = true
		}
	}
	resp := new(control.DropResponse)
	for list := range unneeded {
		if err := p.remove(ctx, list, keep, resp); err != nil {
			return nil, err
		}
	}
	p.Log.Info("dropped", "images", len(keys), "blobs", resp.Blobs, "bytes", resp.Bytes)
	return resp, nil
}

// onLedger are those images that the ledger records. Of any others there is nothing
// to drop, nor to remember: everybody can think of more of them.
func (p *Publisher) onLedger(ctx context.Context, ids []control.ArtifactID) (keys []key, err error) {
	for _, id := range ids {
		k := key{id.Image, digest.Digest(id.Digest)}
		image, err := ledger.ParseImage(k.image)
		if err == nil {
			err = ledger.CheckDigest(k.digest)
		}
		if err != nil {
			continue // no block has such a name or digest
		}
		_, err = p.Writer.Find(ctx, image, k.digest)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// lists are the piece lists of all images that are kept, and those of the
// dropped ones that no kept image has.
func (p *Publisher) lists(ctx context.Context, drop []key) (needed, unneeded map[digest.Digest]bool, err error) {
	needed, unneeded = map[digest.Digest]bool{}, map[digest.Digest]bool{}
	dropping := map[key]bool{}
	for _, k := range drop {
		dropping[k] = true
	}
	for height := range p.Writer.Size() {
		e, err := p.Writer.Entry(ctx, height)
		if err != nil {
			return nil, nil, err
		}
		if e.Artifact == nil {
			continue
		}
		k := key{e.Artifact.Artifact, e.Artifact.Digest}
		if !p.dropped.has(k) {
			needed[e.Artifact.Pieces] = true
		} else if dropping[k] {
			unneeded[e.Artifact.Pieces] = true
		}
	}
	maps.DeleteFunc(unneeded, func(d digest.Digest, _ bool) bool { return needed[d] })
	return needed, unneeded, nil
}

// blobs reads a piece list; one that is not there has none.
func (p *Publisher) blobs(ctx context.Context, list digest.Digest) ([]pieces.Blob, error) {
	data, err := p.Store.ReadAll(ctx, list, pieces.MaxList)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l, err := pieces.Parse(data)
	if err != nil {
		return nil, err
	}
	return l.Blobs, nil
}

// remove deletes a list's blobs, and the list last: until then the next
// attempt finds what is left.
func (p *Publisher) remove(ctx context.Context, list digest.Digest, keep map[digest.Digest]bool, resp *control.DropResponse) error {
	blobs, err := p.blobs(ctx, list)
	if err != nil {
		return err
	}
	for _, b := range append(blobs, pieces.Blob{Digest: list}) {
		if keep[b.Digest] || !p.Store.Has(b.Digest) {
			continue
		}
		if err := p.Store.Remove(ctx, b.Digest); err != nil {
			return err
		}
		resp.Blobs++
		resp.Bytes += b.Size
	}
	return nil
}

// dropped remembers, on disk, the images whose content was dropped.
type dropped struct {
	file string

	mu   sync.Mutex // guards keys
	keys map[key]bool
}

func openDropped(file string) (*dropped, error) {
	d := &dropped{file: file, keys: map[key]bool{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was dropped: %w", err)
	}
	var ids []control.ArtifactID
	if err := json.Unmarshal(data, &ids); err != nil {
		return nil, fmt.Errorf("reading what was dropped: %s: %w", file, err)
	}
	for _, id := range ids {
		d.keys[key{id.Image, digest.Digest(id.Digest)}] = true
	}
	return d, nil
}

func (d *dropped) has(k key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys[k]
}

func (d *dropped) add(keys []key) error {
	return d.change(func() bool {
		before := len(d.keys)
		for _, k := range keys {
			d.keys[k] = true
		}
		return len(d.keys) != before
	})
}

// forget takes an image back that is published again.
func (d *dropped) forget(k key) error {
	return d.change(func() bool {
		there := d.keys[k]
		delete(d.keys, k)
		return there
	})
}

// change writes the file if do changed the keys. Crash before the rename in
// it: the former file, and the caller has no answer and asks again.
func (d *dropped) change(do func() bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !do() {
		return nil
	}
	ids := make([]control.ArtifactID, 0, len(d.keys))
	for k := range d.keys {
		ids = append(ids, control.ArtifactID{Image: k.image, Digest: k.digest.String()})
	}
	slices.SortFunc(ids, func(a, b control.ArtifactID) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Digest, b.Digest))
	})
	data, err := json.Marshal(ids)
	if err != nil {
		return fmt.Errorf("writing what was dropped: %w", err)
	}
	if err := durable.WriteFile(d.file, data); err != nil {
		return fmt.Errorf("writing what was dropped: %w", err)
	}
	return nil
}
