package tlogmirror_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// broken is a body whose connection breaks.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A client that knows the specification alone brings a log of 20,000 entries in
// prefixes, compressed or not, while bodies end early, connections break and the mirror
// is restarted. It gets cosignatures that verify, and can read everything back.
func TestUploadWithInterruptions(t *testing.T) {
	t.Parallel()
	const size = 20_000
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			l := newSpecLog(origin, fmt.Sprint("upload ", seed), size)
			r := newRig(t, quorum.Mirror, l)
			random := rand.New(rand.NewPCG(seed, 17))
			// The pending checkpoint moves on while the upload is under way.
			pending := 0
			grow := func(n int) {
				if a := r.addCheckpoint(l, pending, n); a.code != http.StatusOK || a.body != "" {
					t.Fatalf("add-checkpoint: %d %q, want 200 and nothing", a.code, a.body)
				}
				pending = n
			}
			grow(7_001)
			end, next := pending, 0
			var ticket []byte
			seen := map[string]int{}
			for try := 0; ; try++ {
				if try == 4 {
					grow(13_100)
				}
				if try == 9 {
					grow(size)
				}
				if random.IntN(12) == 0 {
					r.restart(l)
					seen["restart"]++
				}
				a, what, err := interrupted(random, r, l, next, end, ticket)
				seen[what]++
				if err != nil {
					continue // no answer: try from where it is known to be
				}
				seen[fmt.Sprint(a.code)]++
				if a.code == http.StatusOK && end == size {
					specVerify(t, r.cosigner.Keys(), a.body, l.text(size), [2]int{0, size})
					break
				}
				switch a.code {
				case http.StatusOK:
					next, end, ticket = end, pending, nil
				case http.StatusAccepted, http.StatusConflict:
					end, next, ticket = specInfo(t, a)
				case http.StatusBadRequest: // cut off in the first package
				case http.StatusServiceUnavailable: // those before it are still being read
				default:
					t.Fatalf("%s: %d %s", what, a.code, a.body)
				}
			}
			t.Log(seen)
			for _, what := range []string{"202", "400", "whole", "cut off", "broken"} {
				if seen[what] == 0 {
					t.Errorf("no upload was %s: the test shows too little", what)
				}
			}
			readBack(t, r, l, size)
		})
	}
}

// interrupted sends some packages of an upload, and perhaps not all of them.
func interrupted(random *rand.Rand, r *rig, l *specLog, start, end int, ticket []byte) (a answer, what string, err error) {
	body := l.uploadBody(start, end, ticket, 1+random.IntN(6))
	header := octets
	what = "whole"
	if random.IntN(3) == 0 {
		what = "cut off"
		header := len(l.uploadHeader(start, end, ticket))
		most := len(body) - header
		if random.IntN(2) == 0 {
			most = min(most, 1_000) // in the first package
		}
		body = body[:header+random.IntN(most+1)]
	}
	if random.IntN(2) == 0 {
		body, header = specGzip(body), zipped
	}
	var sent io.Reader = bytes.NewReader(body)
	if random.IntN(5) == 0 {
		what = "broken"
		sent = broken{bytes.NewReader(body[:random.IntN(len(body))])}
	}
	a, err = specPost(http.DefaultClient, r.submission+"/add-entries", sent, header)
	return a, what, err
}

// readBack reads a mirror's whole copy by the monitoring prefix.
func readBack(t *testing.T, r *rig, l *specLog, size int) {
	t.Helper()
	at := "/" + specOriginHash(l.origin)
	c := r.get(at+"/checkpoint", nil)
	if c.code != http.StatusOK || !strings.HasPrefix(c.body, l.checkpoint(size)) {
		t.Fatalf("the checkpoint: %d %q", c.code, c.body)
	}
	specVerify(t, r.cosigner.Keys(), c.body, l.text(size), [2]int{0, size})
	for n := 0; n*256 < size; n++ {
		lo, hi := n*256, min(size, n*256+256)
		var bundle []byte
		var leaves []byte
		for i := lo; i < hi; i++ {
			bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(l.entries[i]))), l.entries[i]...)
			h := l.mth(i, i+1)
			leaves = append(leaves, h[:]...)
		}
		for path, data := range map[string][]byte{"/tile/entries/": bundle, "/tile/0/": leaves} {
			if a := r.get(at+path+specTileName(n, hi-lo), nil); a.code != http.StatusOK || a.body != string(data) {
				t.Errorf("%s%s: %d with %d bytes, want %d", path, specTileName(n, hi-lo), a.code, len(a.body), len(data))
			}
		}
	}
	full := size / 256
	var above []byte
	for i := range full {
		h := l.mth(i*256, i*256+256)
		above = append(above, h[:]...)
	}
	if a := r.get(at+"/tile/1/"+specTileName(0, full), nil); full < 256 && (a.code != http.StatusOK || a.body != string(above)) {
		t.Errorf("the tile of level 1: %d with %d bytes, want %d", a.code, len(a.body), len(above))
	}
}

// specTileName is the last part of a tile's path (tlog-tiles), below the millionth.
func specTileName(n, width int) string {
	name := fmt.Sprintf("%03d", n%1000)
	if n >= 1000 {
		name = fmt.Sprintf("x%03d/%s", n/1000, name)
	}
	if width < 256 {
		name += fmt.Sprintf(".p/%d", width)
	}
	return name
}

// Clients that upload at the same time, each its own prefixes and ends, do each other no
// harm: all of them come to an end, and the copy is the log.
func TestConcurrentUploads(t *testing.T) {
	t.Parallel()
	const size = 3_000
	l := newSpecLog(origin, "concurrent", size)
	l.mth(0, size)
	r := newRig(t, quorum.Mirror, l)
	var mu sync.Mutex // guards the log, which remembers hashes
	ends := []int{700, 1_500, size}
	pending := 0
	for _, n := range ends {
		if a := r.addCheckpoint(l, pending, n); a.code != http.StatusOK {
			t.Fatal(a)
		}
		pending = n
	}
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			end, next := ends[i%len(ends)], 0
			var ticket []byte
			for {
				mu.Lock()
				body := l.uploadBody(next, end, ticket, 1+random.IntN(3))
				mu.Unlock()
				a, err := specPost(http.DefaultClient, r.submission+"/add-entries", bytes.NewReader(body), octets)
				if err != nil {
					t.Error(err)
					return
				}
				switch a.code {
				case http.StatusOK:
					if end == size {
						return
					}
					next, end, ticket = end, size, nil
				case http.StatusAccepted, http.StatusConflict:
					end, next, ticket = specInfo(t, a)
				case http.StatusServiceUnavailable: // two at a time
				default:
					t.Errorf("%d %s", a.code, a.body)
					return
				}
			}
		})
	}
	group.Wait()
	readBack(t, r, l, size)
}

// An upload to a checkpoint that is no longer pending ends by its ticket, also when the
// mirror has seen more checkpoints since than it keeps.
func TestTicketsRemember(t *testing.T) {
	t.Parallel()
	const first, size = 600, 700
	l := newSpecLog(origin, "tickets", size)
	r := newRig(t, quorum.Mirror, l)
	r.addCheckpoint(l, 0, first)
	_, next, ticket := specInfo(t, r.post("/add-entries", l.uploadBody(0, first, nil, 1), octets))
	if next != 256 {
		t.Fatalf("next entry %d after a package, want 256", next)
	}
	for n := first; n < size; n++ {
		r.addCheckpoint(l, n, n+1)
	}
	end, _, _ := specInfo(t, r.post("/add-entries", l.uploadBody(256, first, nil, 9), octets))
	if end != size {
		t.Errorf("without a ticket: told to upload to %d, want the pending %d", end, size)
	}
	forged := bytes.Clone(ticket)
	forged[len(forged)-1] ^= 1
	for what, bad := range map[string][]byte{"changed": forged, "cut": ticket[:31], "made up": append(make([]byte, 32), l.checkpoint(first)...)} {
		want(t, "a ticket that was "+what, r.post("/add-entries", l.uploadBody(256, first, bad, 9), octets), http.StatusConflict, fmt.Sprint(size))
	}
	a := r.post("/add-entries", l.uploadBody(256, first, ticket, 9), octets)
	if a.code != http.StatusOK {
		t.Fatalf("with its ticket: %d %s", a.code, a.body)
	}
	specVerify(t, r.cosigner.Keys(), a.body, l.text(first), [2]int{0, first})
	// A ticket for less than is mirrored already leads to nothing.
	r.post("/add-entries", l.uploadBody(first, size, nil, 9), octets)
	want(t, "a ticket of the past", r.post("/add-entries", l.uploadBody(256, first, ticket, 9), octets), http.StatusConflict, fmt.Sprint(size))
}
