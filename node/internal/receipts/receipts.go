// Package receipts remembers which artifacts a node has served: the newest pull
// of each image and digest, in a bounded file. It may import the control API's
// types; the mirror writes receipts, node hands them to the operator.
package receipts

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	// Max is how many receipts a node keeps. The oldest goes first.
	Max = 4096
	// maxFile bounds the file in bytes.
	maxFile = 16 << 20
	// maxAgent bounds what a client says of itself, bytes.
	maxAgent = 128
	// saveInterval is how much of the newest receipts a crash may cost.
	saveInterval = 5 * time.Second
)

// Book holds the receipts. It is safe for concurrent use.
type Book struct {
	file string
	log  *slog.Logger

	mu       sync.Mutex // guards what follows
	receipts map[key]*list.Element
	order    *list.List // of *control.Receipt, the oldest change first
	changed  bool       // since the last save
}

type key struct{ image, digest string }

// Open reads the receipts that a file holds, if it is there. A file that cannot
// be read must not keep the node from serving images: the book starts empty.
func Open(file string, log *slog.Logger) *Book {
	b := &Book{file: file, log: log, receipts: map[key]*list.Element{}, order: list.New()}
	old, err := read(file)
	if err != nil {
		log.Warn("the pull receipts begin anew", "error", err)
	}
	for _, r := range old {
		b.put(&r)
	}
	return b
}

func read(file string) ([]control.Receipt, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes: at most %d", file, info.Size(), maxFile)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []control.Receipt
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	slices.SortFunc(all, func(a, b control.Receipt) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return all[max(0, len(all)-Max):], nil
}

// put makes a receipt the newest; the caller holds mu, or is Open.
func (b *Book) put(r *control.Receipt) {
	k := key{r.Image, r.Digest}
	if old, ok := b.receipts[k]; ok {
		b.order.Remove(old)
	}
	b.receipts[k] = b.order.PushBack(r)
	if b.order.Len() > Max {
		oldest := b.order.Remove(b.order.Front()).(*control.Receipt)
		delete(b.receipts, key{oldest.Image, oldest.Digest})
	}
}

// Pull is one time that a client was given an artifact.
type Pull struct {
	Image, Digest string
	Block         int64
	// Again says that the client asked only what the tag means: it has, or
	// will ask for, the content.
	Again         bool
	Client, Agent string
}

// Record notes a pull.
func (b *Book) Record(p Pull, now time.Time) {
	now = now.UTC().Truncate(time.Second)
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &control.Receipt{Image: p.Image, Digest: p.Digest, FirstPulled: now}
	if old, ok := b.receipts[key{p.Image, p.Digest}]; ok {
		*r = *old.Value.(*control.Receipt) // a copy: readers may hold the old one
	}
	if !p.Again || r.Pulls == 0 {
		r.Pulls++
	}
	r.Block, r.LastPulled = p.Block, now
	r.Client, r.Agent = p.Client, strings.Clone(p.Agent[:min(len(p.Agent), maxAgent)]) // not all that the client sent
	r.Sequence = b.next()
	b.put(r)
	b.changed = true
}

// next is a sequence number above all that were given out, also before a
// crash that lost the newest: it is the time in microseconds.
func (b *Book) next() int64 {
	n := time.Now().UnixMicro()
	if back := b.order.Back(); back != nil {
		n = max(n, back.Value.(*control.Receipt).Sequence+1)
	}
	return n
}

// Since lists up to limit receipts that have changed after a sequence number,
// in the order of their own.
func (b *Book) Since(sequence int64, limit int) []control.Receipt {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []control.Receipt
	for e := b.order.Back(); e != nil && e.Value.(*control.Receipt).Sequence > sequence; e = e.Prev() {
		out = append(out, *e.Value.(*control.Receipt))
	}
	slices.Reverse(out)
	return out[:min(len(out), limit)]
}

// Run saves the receipts now and then, until ctx ends.
func (b *Book) Run(ctx context.Context) {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		if err := b.save(); err != nil {
			b.log.Error("saving the pull receipts", "error", err)
		}
	}
}

func (b *Book) save() error {
	b.mu.Lock()
	if !b.changed {
		b.mu.Unlock()
		return nil
	}
	b.changed = false
	all := make([]*control.Receipt, 0, b.order.Len())
	for e := b.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*control.Receipt))
	}
	b.mu.Unlock()
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	// Crash before: the receipts of the last save.
	if err := durable.WriteFile(b.file, data); err != nil {
		b.mu.Lock()
		b.changed = true
		b.mu.Unlock()
		return err
	}
	return nil
}
