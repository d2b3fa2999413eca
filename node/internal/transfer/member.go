package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

const (
	// offerTimeout is how long a peer may think about an offer: longer than
	// offerWait, for which it waits until it has something.
	offerTimeout = 2750 * time.Millisecond
	// A peer that lacks the blob or fails is asked again after backOffMin; each
	// failure doubles that, up to backOffMax.
	backOffMin = 2 * time.Second
	backOffMax = 30 * time.Second
)

// member is a peer's part in a download.
type member struct {
	s         *swarm
	peer      *p2p.Peer
	wake      chan struct{} // it asked for the same blob: it may have pieces now
	leave     context.CancelFunc
	available bool        // guarded by the swarm
	failing   bool        // guarded by the swarm: it did not deliver the last time
	second    atomic.Bool // its second slot is in use
	proven    atomic.Bool // it has delivered a piece
}

// work has the peer deliver pieces until the download is over. Once the peer has
// delivered, a second slot hides the time between two pieces; the first backs
// off when the peer does not deliver.
func (m *member) work(ctx context.Context, first bool) {
	pause := &backoff.ExponentialBackOff{InitialInterval: backOffMin, Multiplier: 2, MaxInterval: backOffMax}
	failures := 0
	declined := -1
	for ctx.Err() == nil {
		want, urgent := m.s.d.want(m)
		if want == nil {
			m.s.d.idle(ctx)
			continue
		}
		if !m.waitForSlot(ctx) {
			continue // and look again what is missing
		}
		asked := time.Now()
		i, err := m.offer(ctx, want, urgent, declined)
		declined = -1
		if err == nil {
			m.s.markAvailable(m)
			m.s.d.foundSource()
		}
		if err == nil && i < 0 {
			m.pause(ctx, offerWait-time.Since(asked)) // an honest peer has waited already
			continue
		}
		if err == nil {
			if err = m.bring(ctx, i); errors.Is(err, errTaken) {
				declined, err = i, nil
				continue
			}
		}
		if err == nil {
			m.s.delivered(m)
			failures = 0
			pause.Reset()
			if m.second.CompareAndSwap(false, true) {
				m.s.done.Go(func() { m.work(ctx, false) })
			}
			continue
		}
		if disk, broken := errors.AsType[*diskError](err); broken {
			m.s.fail(disk)
			return
		}
		if ctx.Err() != nil || errors.Is(err, errLost) {
			continue
		}
		m.s.d.f.blame(m.peer, err)
		m.s.fails(m)
		hangs := errors.Is(err, context.DeadlineExceeded)
		if failures++; failures < maxFailures && !hangs && !errors.Is(err, errLacks) && !m.peer.Banned() {
			continue
		}
		if !first {
			m.second.Store(false)
			return
		}
		if errors.Is(err, errLacks) {
			m.s.d.f.holders.lacks(m.s.d.key, m.peer.ID)
		}
		m.s.markUnavailable(m, err)
		if !m.awaken(ctx, pause.NextBackOff()) {
			return
		}
	}
}

// waitForSlot waits until there is waitForSlot for one more piece.
func (m *member) waitForSlot(ctx context.Context) bool {
	m.s.d.queue(1)
	defer m.s.d.queue(-1)
	return m.s.d.f.waitForSlot(ctx)
}

// pause waits, but not once there is reason to ask the peer.
func (m *member) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.wake:
	case <-ctx.Done():
	}
}

// awaken waits until the peer is worth being asked again. A banned one is not.
func (m *member) awaken(ctx context.Context, pause time.Duration) bool {
	if m.peer.Banned() {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-m.wake:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return m.peer.Connected()
}

// offered is a node's answer to a peer that asks for pieces.
type offered struct {
	Piece int `json:"piece"`
}

// offer asks the peer which of the missing pieces it offers. It returns -1 if
// the peer has none of them for now.
func (m *member) offer(ctx context.Context, want pieces.Set, urgent bool, declined int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	header := http.Header{}
	if urgent {
		header.Set(headerUrgent, "1")
	}
	if m.s.alone(m) {
		header.Set(headerAlone, "1")
	}
	if declined >= 0 {
		header.Set(headerDeclined, fmt.Sprint(declined))
	}
	resp, err := m.peer.Post(ctx, piecesPath(m.s.d.blob.Digest), header, bytes.NewReader(want))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
		return -1, nil
	case http.StatusNotFound:
		return 0, fmt.Errorf("peer %s: %w", m.peer.ID, errLacks)
	case http.StatusOK:
	default:
		return 0, answered(m.peer, resp)
	}
	var o offered
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&o); err != nil {
		return 0, fmt.Errorf("peer %s: %w", m.peer.ID, err)
	}
	if o.Piece < 0 || o.Piece >= m.s.d.blob.Count() || !want.Has(o.Piece) {
		return 0, &badContent{m.peer, true, fmt.Errorf("an offer of piece %d that was not asked for", o.Piece)}
	}
	return o.Piece, nil
}

// errTaken is returned for a piece that came, or was asked of another peer, or
// for which there was no memory left, while this one was thinking.
var errTaken = errors.New("the piece is not needed any more")

// bring fetches one piece, verifies it and stores it.
func (m *member) bring(ctx context.Context, i int) error {
	d := m.s.d
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errLost)
	flight, arrived, ok := d.f.fetching(cancel)
	if !ok {
		return errTaken
	}
	defer arrived()
	own, ok := d.begin(i, m, flight)
	if !ok {
		return errTaken
	}
	defer d.end(i, own)
	offset, length := d.blob.Range(i)
	in := pieceBuffers.Get().(*buffer)
	defer pieceBuffers.Put(in)
	in.data = in.data[:0]
	err := d.f.get(ctx, request{
		peer: m.peer, blob: d.blob.Digest, header: ranged(offset, length), length: length, out: in, in: &flight.arrival,
		check: func(got digest.Digest) error { return d.blob.CheckDigest(i, got) },
	})
	if err != nil {
		return err
	}
	d.f.holders.delivered(d.key, m.peer.ID)
	m.peer.Delivered(int(length))
	return d.store(i, own, in.data)
}

// store writes a verified piece, and ends the other fetch of it.
func (d *download) store(i int, own *fetch, data []byte) error {
	took := own.age(time.Now())
	first := false
	err := d.whole.came(i, data, func() (err error) {
		first, err = d.write(i, data)
		return err
	})
	if err != nil {
		return &diskError{fmt.Errorf("storing piece %d of %s: %w", i, d.blob.Digest, err)}
	}
	if !first {
		d.f.metrics.twice.Add(float64(len(data)))
		return nil
	}
	d.f.metrics.bytes.WithLabelValues("peers").Add(float64(len(data)))
	d.f.fastest.came(len(data), took, time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pace == 0 {
		d.pace = took
	}
	d.pace += (took - d.pace) / 4
	for _, other := range d.fetches[i] {
		if other != own {
			other.cancel(errLost)
		}
	}
	return nil
}

// write writes a verified piece; false if it was there. One is written after
// the other: the kernel has them wait for each other in any case, busily.
func (d *download) write(i int, data []byte) (first bool, err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.has(i) {
		return false, nil
	}
	// Crash during this: the next start finds that the piece does not have its
	// digest, and fetches it again.
	offset, _ := d.blob.Range(i)
	for part := range slices.Chunk(data, chunk) {
		if _, err := d.part.WriteAt(part, offset); err != nil {
			return false, err
		}
		offset += int64(len(part))
	}
	d.add(i)
	return true, nil
}
