package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// trust says which key may sign after a tree, by the RotateKey blocks in it. It
// is immutable; follow makes another one.
type trust struct {
	// newest is the one key that counts: the pinned one, or the last to which
	// the ledger was handed over.
	newest *ledger.Verifier
	// given are the keys that have handed the ledger over, trusted once or not.
	given []string
	// entries are the RotateKey entries in the tree.
	entries []string
	// rotations are the proofs of blocks in the tree, the oldest first.
	rotations []ledger.Rotation
	// handedOver are the blocks by which follow came from one newest key to the next.
	handedOver []handOver
}

// handOver is a RotateKey block in a tree.
type handOver struct {
	*ledger.RotateKey
	height int64
	data   []byte // the entry's bytes
}

// newRotations are the proofs of the blocks by which follow came to the newest key.
func (t *trust) newRotations() (out []ledger.Rotation) {
	for _, b := range t.handedOver {
		i := slices.IndexFunc(t.rotations, func(r ledger.Rotation) bool { return r.Entry == string(b.data) })
		out = append(out, t.rotations[i])
	}
	return out
}

// unproven are the RotateKey entries in the tree of which no proof is at hand: a
// copy that began with a later key was not told any.
func (t *trust) unproven() []string {
	return slices.DeleteFunc(slices.Clone(t.entries), func(entry string) bool {
		return slices.ContainsFunc(t.rotations, func(r ledger.Rotation) bool { return r.Entry == entry })
	})
}

// key is the newest key.
func (t *trust) key() string { return t.newest.Newest() }

// retired accepts what the keys signed that have handed the ledger over; nil if
// there are none.
func (t *trust) retired() (v *ledger.Verifier) {
	for _, vkey := range t.given {
		k, err := ledger.NewVerifier(vkey)
		switch {
		case err != nil || vkey == t.key() || k.Origin() != t.newest.Origin():
		case v == nil:
			v = k
		default:
			v = v.And(k)
		}
	}
	return v
}

// position is a head, and which key may sign the next one.
type position struct {
	head  *ledger.Checkpoint // nil until a checkpoint is verified and indexed
	trust *trust
	since time.Time // when the head became it, or was stored by an earlier process
}

func (p *position) at() (c ledger.Checkpoint, ok bool) {
	if p.head == nil {
		return ledger.Checkpoint{}, false
	}
	return *p.head, true
}

// now is where this copy is, of one moment.
func (l *Ledger) now() *position { return l.position.Load() }

// follow reads the RotateKey blocks of a tree that is indexed and that extends
// the head. From each one on that counts, the ledger is the key's which it names:
// if the newest key handed over, and signed a tree with that block which is the
// beginning of this one. Of two keys that one key names the first counts, by
// height. The checkpoint itself must carry the newest key's signature, and it is
// that key which says when it was signed. told are proofs that the source of the
// checkpoint has. The caller holds mu.
func (l *Ledger) follow(ctx context.Context, tr torchwood.TileReader, c ledger.Checkpoint, told []ledger.Rotation) (ledger.Checkpoint, *trust, error) {
	was := l.now()
	from := int64(0)
	if was.head != nil {
		from = was.head.Tree.N
	}
	blocks, err := l.rotationBlocks(ctx, c.Tree, from)
	if err != nil {
		return c, nil, err
	}
	next := *was.trust
	next.handedOver = nil
	told = slices.Concat(was.trust.rotations, told)
	p := proven{ctx, l.cache.over(tr), c.Tree}
	if next.rotations, err = l.proofsBelow(p, from, c, told); err != nil {
		return c, nil, err
	}
	for _, b := range blocks {
		counts := b.Previous == next.key() && !slices.Contains(next.given, b.Key) && b.Key != b.Previous
		proof, err := handOverProof(p, c, b, told)
		if err == nil {
			next.rotations = append(slices.Clip(next.rotations), proof)
		} else if counts {
			return c, nil, fmt.Errorf("block %d hands over to the key %s: %w: %w", b.height, b.Key, errHandOver, err)
		}
		if counts {
			if next.newest, err = ledger.NewVerifier(b.Key); err != nil {
				return c, nil, err
			}
			next.handedOver = append(next.handedOver, b)
		}
		next.given = append(slices.Clip(next.given), b.Previous)
		next.entries = append(slices.Clip(next.entries), string(b.data))
	}
	signed, err := ledger.VerifyCheckpoint(next.newest, c.Signed)
	if err != nil {
		return c, nil, fmt.Errorf("%w: %w: the ledger of %d blocks was handed over to %s: %w", errHandOver, errUnsigned, c.Tree.N, next.key(), err)
	}
	return signed, &next, nil
}

// proofsBelow are the proofs of the blocks below the head's size, with the offered
// ones of blocks that had none. The caller holds mu.
func (l *Ledger) proofsBelow(p proven, size int64, c ledger.Checkpoint, told []ledger.Rotation) ([]ledger.Rotation, error) {
	if size == 0 {
		return nil, nil // what was kept may be of a tree that never became the head
	}
	t := l.now().trust
	unproven := t.unproven()
	if len(unproven) == 0 {
		return t.rotations, nil
	}
	blocks, err := l.rotationBlocks(p.ctx, p.tree, 0)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(t.rotations)
	for _, b := range blocks {
		if !slices.Contains(unproven, string(b.data)) {
			continue
		}
		if proof, err := handOverProof(p, c, b, told); err == nil {
			out = append(out, proof)
		}
	}
	slices.SortStableFunc(out, func(a, b ledger.Rotation) int { return cmp.Compare(heightOf(a), heightOf(b)) })
	return out, nil
}

// rotationBlocks are the RotateKey blocks of an indexed tree from a height on,
// the lowest first. The caller holds mu.
func (l *Ledger) rotationBlocks(ctx context.Context, tree tlog.Tree, from int64) (out []handOver, err error) {
	var heights []int64
	look := func() error {
		heights = nil
		return l.index.Heights(index.RotationKey, tree.N, func(h int64) bool {
			if h >= from {
				heights = append(heights, h)
			}
			return h > from
		})
	}
	err = look()
	if damaged, ok := errors.AsType[*index.DamagedError](err); ok {
		if err = l.remake(ctx, damaged, tree); err == nil {
			err = look()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key rotations: %w", err)
	}
	slices.Reverse(heights)
	for _, h := range heights {
		data, err := l.entryAt(tree, h)
		if err != nil {
			return nil, fmt.Errorf("reading the key rotation in block %d: %w", h, err)
		}
		if e, err := ledger.ParseRotation(data); err == nil { // else another key begins alike, or it says nothing
			out = append(out, handOver{e, h, data})
		}
	}
	return out, nil
}

// entryAt reads a block's bytes by the index as it is.
func (l *Ledger) entryAt(tree tlog.Tree, height int64) ([]byte, error) {
	leaf, err := l.index.Leaves(height, 1)
	if err != nil {
		return nil, err
	}
	offset, err := l.index.Offset(height)
	if err != nil {
		return nil, err
	}
	t := proven{tree: tree}.tile(0, height/torchwood.TileWidth)
	t.L = -1
	data, err := l.dir.readEntry(t, int64(offset))
	if err == nil && tlog.RecordHash(data) != tlog.Hash(leaf) {
		err = &CorruptError{Path: torchwood.TilePath(t)}
	}
	return data, err
}

// handOverProof proves that the key which hands over in a block signed a tree
// with that block, which is the beginning of the tree p: the checkpoint's own, or
// that of a proof which somebody told.
func handOverProof(p proven, c ledger.Checkpoint, b handOver, told []ledger.Rotation) (ledger.Rotation, error) {
	v, err := ledger.NewVerifier(b.Previous)
	if err != nil {
		return ledger.Rotation{}, err
	}
	refused := fmt.Errorf("there is no proof that %s, which hands over, signed it", b.Previous)
	for _, r := range told {
		if r.Entry != string(b.data) {
			continue
		}
		err := beginsWith(p, b, v, r)
		if err == nil {
			return r, nil
		}
		refused = err
	}
	if _, err := ledger.VerifyCheckpoint(v, c.Signed); err != nil {
		return ledger.Rotation{}, refused
	}
	proof, err := tlog.ProveRecord(c.Tree.N, b.height, p)
	if err != nil {
		return ledger.Rotation{}, fmt.Errorf("proving block %d: %w", b.height, err)
	}
	return ledger.Rotation{Entry: string(b.data), Proof: string(torchwood.FormatProof(b.height, proof, v.Own(c.Signed)))}, nil
}

// beginsWith checks that the proof of a hand-over is of its block, and that the
// tree which the key before signed is the beginning of the tree p.
func beginsWith(p proven, b handOver, v *ledger.Verifier, r ledger.Rotation) error {
	block, err := ledger.VerifyInclusion(v, b.data, []byte(r.Proof))
	if err != nil {
		return err
	}
	signed := block.Checkpoint.Tree
	if block.Height != b.height || signed.N > p.tree.N {
		return fmt.Errorf("the proof is of block %d in a ledger of %d blocks, which is not the beginning of this one of %d", block.Height, signed.N, p.tree.N)
	}
	root, err := p.root(signed.N)
	if err != nil {
		return fmt.Errorf("checking the proof's ledger of %d blocks: %w", signed.N, err)
	}
	if root != signed.Hash {
		return fmt.Errorf("the proof's ledger of %d blocks is not the beginning of this one", signed.N)
	}
	return nil
}

// reachable accepts the pinned key and all keys that rotations name from it: any
// of them may have signed what an earlier version of this program has stored.
func reachable(pinned *ledger.Verifier, rotations []ledger.Rotation) *ledger.Verifier {
	v := pinned
	for range rotations {
		before := v
		for _, r := range rotations {
			e, err := ledger.ParseRotation([]byte(r.Entry))
			if err != nil || v.Trusts(e.Key) || !v.Trusts(e.Previous) {
				continue
			}
			if k, err := ledger.NewVerifier(e.Key); err == nil {
				v = v.And(k)
			}
		}
		if v == before {
			break
		}
	}
	return v
}

// advanceAsBefore makes a stored checkpoint the head that version 0.1.0 accepted
// although its signer has handed the ledger over, or is the second key that one
// key named. The key that signed it counts from here on. Somebody must look at it
// when this version sees it first: the key may be a thief's.
func (l *Ledger) advanceAsBefore(ctx context.Context, c ledger.Checkpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.indexTo(ctx, l.dir, c.Tree); err != nil {
		return err
	}
	blocks, err := l.rotationBlocks(ctx, c.Tree, 0)
	if err != nil {
		return err
	}
	was := l.now().trust
	next := &trust{rotations: was.rotations}
	named := []string{was.key()}
	for _, b := range blocks {
		next.given = append(next.given, b.Previous)
		next.entries = append(next.entries, string(b.data))
		named = append(named, b.Key)
	}
	for _, vkey := range slices.Backward(named) {
		if slices.Contains(c.Signers, vkey) {
			if next.newest, err = ledger.NewVerifier(vkey); err != nil {
				return err
			}
			break
		}
	}
	if next.newest == nil {
		return fmt.Errorf("%w %s", errOtherKey, l.vkey)
	}
	if c, err = ledger.VerifyCheckpoint(next.newest, c.Signed); err != nil {
		return err
	}
	if l.record == nil && (l.heals || next.key() != l.vkey) { // a publisher has its key itself
		// Crash after: the alarm is raised, and the next start goes on from here.
		err := l.keepEvidence(ledger.Evidence{
			Kind: ledger.EvidenceNewKey, Peer: "this disk", Key: next.key(), Received: string(c.Signed),
			Message: fmt.Sprintf("an earlier version accepted the key %s, although another key follows by the blocks: if that key is not the publisher's, it is a thief's", next.key()),
		})
		if err != nil {
			return err
		}
	}
	if err := l.keepKeys(next.key(), nil); err != nil {
		return err
	}
	l.moveHead(c, next)
	return nil
}

// own is a checkpoint with the signatures alone of the keys that sign the ledger on
// a tree: of the newest, and of those before it which sign beside it until all have
// heard of it.
func (t *trust) own(c ledger.Checkpoint) ledger.Checkpoint {
	v := t.newest
	for _, vkey := range t.given[max(0, len(t.given)-ledger.MaxSigningKeys):] {
		if k, err := ledger.NewVerifier(vkey); err == nil {
			v = v.And(k)
		}
	}
	c.Signed = v.Own(c.Signed)
	return c
}

// Essence is what decides whether the key that signs the ledger now signed a
// checkpoint: see Verifier.Essence.
func (l *Ledger) Essence(signed []byte) ([]byte, error) {
	return l.now().trust.newest.Essence(signed)
}
