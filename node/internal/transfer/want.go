package transfer

import (
	"context"
	"slices"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// want tells which pieces a member may offer now, nil for none: first a piece
// that a client has waited for too long, then those that are not on their way
// yet, and at the end those that another peer has been bringing for long.
func (d *download) want(m *member) (want pieces.Set, urgent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.blob.Count()
	for i, since := range d.readers {
		late := len(d.fetches[i]) == 0 && time.Since(since) > max(pieceTimeout, 3*d.pace) || d.slow(i, m)
		if !d.have.Has(i) && late && d.mayFetch(i, m) {
			want = pieces.NewSet(n)
			want.Add(i)
			return want, true
		}
	}
	if d.left > len(d.fetches) {
		want = pieces.NewSet(n)
		for i := range n {
			if !d.have.Has(i) && len(d.fetches[i]) == 0 {
				want.Add(i)
			}
		}
		return want, len(d.fetches) == 0 && time.Since(d.progress) > starving
	}
	for i := range d.fetches {
		if !d.have.Has(i) && d.slow(i, m) && d.mayFetch(i, m) {
			if want == nil {
				want = pieces.NewSet(n)
			}
			want.Add(i)
		}
	}
	return want, true
}

// slow tells whether a piece has been on its way for much longer than others
// take, so that one more member may bring it. Unless that member has delivered
// before, it waits the longer the more bring it already: they may be many, and
// have no mind to. The caller holds mu.
func (d *download) slow(i int, m *member) bool {
	fetches := d.fetches[i]
	if len(fetches) == 0 {
		return false
	}
	pace := d.pace
	if pace == 0 { // before its first piece those of other blobs are the measure
		_, length := d.blob.Range(i)
		pace = d.f.fastest.of(length, time.Now())
	}
	limit := max(quickSlow, 3*pace)
	if !m.proven.Load() {
		limit *= time.Duration(len(fetches))
	}
	last, now := fetches[len(fetches)-1], time.Now()
	// How long a piece takes is not known before one has come.
	return last.age(now) > limit && (d.pace > 0 || last.behind(pieces.Size, tolerable, now))
}

// mayFetch tells whether a member could fetch a piece that others are already
// fetching; the caller holds mu.
func (d *download) mayFetch(i int, m *member) bool {
	return !slices.ContainsFunc(d.fetches[i], func(f *fetch) bool { return f.member == m })
}

// idle waits until there may be something to want.
func (d *download) idle(ctx context.Context) {
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	timer := time.NewTimer(quickSlow / 2) // a piece on its way may have become slow
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// begin notes that a member fetches a piece, unless it is not needed any more.
func (d *download) begin(i int, m *member, fl *flight) (*fetch, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.have.Has(i) || len(d.fetches[i]) > 0 && (!d.slow(i, m) || !d.mayFetch(i, m)) {
		return nil, false
	}
	f := &fetch{fl, m}
	d.fetches[i] = append(d.fetches[i], f)
	return f, true
}

// end notes that a fetch is over, however it ended.
func (d *download) end(i int, f *fetch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fetches[i] = slices.DeleteFunc(d.fetches[i], func(o *fetch) bool { return o == f })
	if len(d.fetches[i]) == 0 {
		delete(d.fetches, i)
		d.notify()
	}
}
