package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Lookup answers many questions about images under one head: each is an image as people
// or runtimes name it, by tag, digest or both.
func (l *Ledger) Lookup(ctx context.Context, questions []*ledger.Reference) (*ledger.LookupJSON, error) {
	head, ok := l.Head()
	if !ok {
		return nil, fmt.Errorf("no checkpoint yet: %w", ledger.ErrNotFound)
	}
	out := &ledger.LookupJSON{Checkpoint: string(head.Signed), Answers: make([]ledger.AnswerJSON, len(questions))}
	for i, q := range questions {
		if err := l.answer(ctx, head, q, &out.Answers[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *Ledger) answer(ctx context.Context, head ledger.Checkpoint, q *ledger.Reference, out *ledger.AnswerJSON) error {
	var tag *ledger.Entry
	for _, name := range q.Names {
		known, err := l.Tags(ctx, name.Name(), "", 1)
		if err != nil {
			return err
		}
		out.Repository = out.Repository || len(known) > 0
		if tag != nil || name.Tag == "" {
			continue
		}
		if tag, err = l.latestBelow(ctx, name, head.Tree.N); err != nil {
			return err
		}
	}
	var block *ledger.Entry
	var err error
	if q.Whole() {
		if block, err = l.naming(ctx, head, q, tag); err != nil {
			return err
		}
	}
	if block != nil {
		if out.Block, out.Inclusion, err = l.withProof(ctx, head, block); err != nil {
			return err
		}
	}
	if tag != nil && (block == nil || tag.Height != block.Height) {
		out.Tag, out.TagInclusion, err = l.withProof(ctx, head, tag)
	}
	return err
}

// withProof is a block with the proof that it is under a head.
func (l *Ledger) withProof(ctx context.Context, head ledger.Checkpoint, e *ledger.Entry) (*ledger.BlockJSON, []string, error) {
	b, err := l.blockJSON(ctx, e, nil)
	if err != nil {
		return nil, nil, err
	}
	proof, err := l.Prove(ctx, e.Height, head)
	if err != nil {
		return nil, nil, err
	}
	return &b, ledger.EncodeHashes(proof), nil
}

// latestBelow finds the newest block of an image in the first size blocks; nil if
// there is none.
func (l *Ledger) latestBelow(ctx context.Context, image ledger.Image, size int64) (*ledger.Entry, error) {
	found, err := l.historyBelow(ctx, image, size, 1)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// naming picks the block that says most about a digest under a name: of the newest ones
// that name the digest, and the newest of the tag. It is nil if there is none.
func (l *Ledger) naming(ctx context.Context, head ledger.Checkpoint, q *ledger.Reference, tag *ledger.Entry) (best *ledger.Entry, err error) {
	blocks, err := l.byDigestBelow(ctx, q.Digest(), head.Tree.N, namingPage)
	if err != nil {
		return nil, err
	}
	if tag != nil && tag.Artifact.Names(q.Digest()) {
		blocks = append([]*ledger.Entry{tag}, blocks...) // there may be many that are newer
	}
	highest := rankStands
	if len(q.Names) > 0 {
		highest |= rankRepository
	}
	if tag != nil {
		highest |= rankTag
	}
	rank := -1
	for _, e := range blocks {
		r, err := l.rank(ctx, e, q)
		if err != nil {
			return nil, err
		}
		if r > rank {
			best, rank = e, r
		}
		if rank == highest {
			break
		}
	}
	return best, nil
}

// What makes one block say more than another, the least first.
const (
	rankTag        = 1 << iota // it is of the tag
	rankStands                 // the digest is not withdrawn in it
	rankRepository             // it is of the repository, whose withdrawals count
)

func (l *Ledger) rank(ctx context.Context, e *ledger.Entry, q *ledger.Reference) (r int, err error) {
	image, err := ledger.ParseImage(e.Artifact.Name())
	if err != nil {
		return 0, err
	}
	for _, name := range q.Names {
		if name.Name() == image.Name() {
			r |= rankRepository
			if name.Tag == image.Tag {
				r |= rankTag
			}
		}
	}
	by, err := l.RevokedIn(ctx, e, q.Digest())
	if by == nil {
		r |= rankStands
	}
	return r, err
}

func (l *Ledger) serveLookup(w http.ResponseWriter, r *http.Request) {
	texts := r.URL.Query()["q"]
	if len(texts) == 0 || len(texts) > ledger.MaxLookup {
		http.Error(w, fmt.Sprintf("%d questions: give 1 to %d, each as q=NAME:TAG, q=NAME@sha256:DIGITS or q=sha256:DIGITS", len(texts), ledger.MaxLookup), http.StatusBadRequest)
		return
	}
	questions := make([]*ledger.Reference, len(texts))
	for i, text := range texts {
		q, err := ledger.ParseReference(text)
		if err == nil && q.Digits != "" && !q.Whole() {
			err = errors.New("a look-up takes all 64 digits of a digest")
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("question %d: %v", i+1, err), http.StatusBadRequest)
			return
		}
		questions[i] = q
	}
	out, err := l.Lookup(r.Context(), questions)
	if err != nil {
		l.fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	writeJSON(w, out)
}
