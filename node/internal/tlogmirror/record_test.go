package tlogmirror_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/internal/tlogmirror"
)

// Keys and records are made once, stay what they are, and are of nobody else.
func TestKeysStayWithTheirRecords(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "keys", 300)
	r := newRig(t, quorum.Mirror, l)
	r.mustAdd(l, 0, 300)
	keys, state := r.cosigner.Keys(), r.member.State()
	var kinds []byte
	for _, vkey := range keys {
		_, key := specKey(t, vkey)
		kinds = append(kinds, key[0])
	}
	if !slices.Equal(kinds, []byte{6, 4}) {
		t.Fatalf("keys %q: want one of ML-DSA-44 (0x06) and one of Ed25519 (0x04)", keys)
	}
	if info, err := os.Stat(filepath.Join(r.path, "cosigner.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret keys' file: %v, %v", info, err)
	}
	if _, err := tlogmirror.Open(r.path, options(t, quorum.Mirror, time.Now)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second cosigner in one folder: %v", err)
	}
	r.restart(l)
	if !slices.Equal(r.cosigner.Keys(), keys) || r.member.State().Serial != state.Serial || r.member.State().Key != state.Key {
		t.Errorf("after a restart: keys %q and record %d, want %q and %d", r.cosigner.Keys(), r.member.State().Serial, keys, state.Serial)
	}
	if err := r.cosigner.Close(); err != nil {
		t.Fatal(err)
	}
	named := options(t, quorum.Mirror, time.Now)
	named.Name = "mirror.example/two"
	if _, err := tlogmirror.Open(r.path, named); err == nil || !strings.Contains(err.Error(), "mirror.example/one") {
		t.Errorf("under another name: %v", err)
	}
	asWitness := options(t, quorum.Witness, time.Now)
	asWitness.Name = "mirror.example/one"
	c, err := tlogmirror.Open(r.path, asWitness)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Add(t.Context(), logOf(t, l)); err == nil || !strings.Contains(err.Error(), "is of a mirror") {
		t.Errorf("as a witness: %v", err)
	}
}

// A key without its record signs nothing for that log any more, nor does one with a
// record that is older than is known, nor a mirror that has lost entries.
func TestLostStateSignsNothing(t *testing.T) {
	t.Parallel()
	l, another := newSpecLog(origin, "lost", 600), newSpecLog("log.example/two", "lost", 9)
	for name, tt := range map[string]struct {
		lose  func(t *testing.T, folder string)
		floor uint64
		says  string
		lost  bool // it is a StateLost
	}{
		"the record is gone":    {func(t *testing.T, f string) { remove(t, f, "record") }, 0, "is gone", true},
		"all of the log's":      {func(t *testing.T, f string) { remove(t, f, ".") }, 0, "is gone", true},
		"the record is torn":    {func(t *testing.T, f string) { overwrite(t, f, "record") }, 0, "record", false},
		"an older record":       {func(*testing.T, string) {}, 99, "older", true},
		"entries are gone":      {func(t *testing.T, f string) { remove(t, f, "log") }, 0, "there are 0", false},
		"a bundle is gone":      {func(t *testing.T, f string) { remove(t, f, "log/tile/entries") }, 0, "entries", false},
		"the keys are gone":     {func(t *testing.T, f string) { remove(t, f, "../cosigner.json") }, 0, "keys are gone", false},
		"the keys are damaged":  {func(t *testing.T, f string) { overwrite(t, f, "../cosigner.json") }, 0, "damaged", false},
		"the tree's end is bad": {func(t *testing.T, f string) { overwrite(t, f, "log/.state/treeState") }, 0, "treeState", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, quorum.Mirror, l)
			r.mustAdd(l, 0, 300)
			if err := r.cosigner.Close(); err != nil {
				t.Fatal(err)
			}
			tt.lose(t, filepath.Join(r.path, specOriginHash(origin)))
			c, err := tlogmirror.Open(r.path, options(t, quorum.Mirror, time.Now))
			if err == nil {
				defer c.Close()
				log := logOf(t, l)
				log.Floor = tt.floor
				_, err = c.Add(t.Context(), log)
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%v, want %q", err, tt.says)
			}
			if refused, ok := errors.AsType[*quorum.Refusal](err); tt.lost != (ok && refused.Reason == quorum.StateLost) {
				t.Errorf("%v: is it of a lost state? want %v", err, tt.lost)
			}
			if c == nil {
				return
			}
			r.current.Store(c)
			want(t, "the lost log", r.addCheckpoint(l, 300, 600), 404, "not cosigned")
			if _, err := c.Add(t.Context(), logOf(t, another)); err != nil {
				t.Error(err)
			}
			want(t, "another log", r.addCheckpoint(another, 0, 9), 200, "")
		})
	}
}

func remove(t *testing.T, folder, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, folder, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(`{"siz`), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The file that is served is made again from the record, whatever a power cut left of it.
func TestServedCheckpointIsMadeAgain(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "served", 300)
	for _, left := range []string{"", "no note", l.checkpoint(300), l.checkpoint(300) + "— mirror.example/one AAAAAAAAAAAAAAAA\n", newSpecLog(origin, "served", 300).checkpoint(200)} {
		r := newRig(t, quorum.Mirror, l)
		r.mustAdd(l, 0, 300)
		if err := os.WriteFile(filepath.Join(r.path, specOriginHash(origin), "checkpoint"), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		r.restart(l)
		a := r.get("/"+specOriginHash(origin)+"/checkpoint", nil)
		if !strings.HasPrefix(a.body, l.checkpoint(300)) {
			t.Errorf("after %q it is %q", left, a.body)
		}
		specVerify(t, r.cosigner.Keys(), a.body, l.text(300), [2]int{0, 300})
	}
}

// Nothing is released, and nothing is remembered, if the record cannot be written.
func TestUnwritableRecordReleasesNothing(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "unwritable", 300)
	r := newRig(t, quorum.Witness, l)
	r.mustAdd(l, 0, 200)
	record := filepath.Join(r.path, specOriginHash(origin), "record")
	kept, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, record, ".")
	if err := os.MkdirAll(filepath.Join(record, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := r.member.State()
	a := r.addCheckpoint(l, 200, 300)
	want(t, "with a folder in its place", a, 500, "its log says why")
	if now := r.member.State(); now.Serial != before.Serial || strings.Contains(a.body, "—") {
		t.Errorf("the record went from %d to %d, the answer was %q", before.Serial, now.Serial, a.body)
	}
	remove(t, record, ".")
	if err := os.WriteFile(record, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	specVerify(t, r.cosigner.Keys(), r.mustAdd(l, 200, 300), l.text(300), [2]int{0, 300})
}

// All ways in share the record: what our own protocol promises is kept over a restart,
// and what it commits is cosigned and served.
func TestChangeIsTheOneWayIn(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "change", 300)
	r := newRig(t, quorum.Mirror, l)
	r.mustAdd(l, 0, 300)
	ballot := quorum.Ballot{Number: 7, ID: strings.Repeat("7", 32)}
	prepare := func(b quorum.Ballot) error {
		return r.member.Change(func(s quorum.State) (quorum.State, error) {
			next, _, err := s.Prepare(quorum.Prepare{Ballot: b})
			return next, err
		})
	}
	if err := prepare(ballot); err != nil {
		t.Fatal(err)
	}
	r.restart(l)
	refused, ok := errors.AsType[*quorum.Refusal](prepare(quorum.Ballot{Number: 6, ID: ballot.ID}))
	if !ok || refused.Reason != quorum.Outbid || r.member.State().Promised != ballot {
		t.Errorf("a lower ballot after a restart: %v, promised %v", refused, r.member.State().Promised)
	}
	// The log's signature with a new line is committed: it is cosigned anew.
	again := l.sign(l.text(300)) + "— log.example/other AAAAAAAAAAAA\n"
	if err := r.member.Change(func(s quorum.State) (quorum.State, error) {
		signed := quorum.Signed{Tree: s.Log.Tree, Note: []byte(again)}
		next, _, err := s.Commit(quorum.Commit{Signed: signed, Evidence: quorum.Roots{300: s.Log.Tree.Root}})
		return next, err
	}); err != nil {
		t.Fatal(err)
	}
	a := r.get("/"+specOriginHash(origin)+"/checkpoint", nil)
	if !strings.HasPrefix(a.body, again) {
		t.Errorf("after a commit it serves %q", a.body)
	}
	specVerify(t, r.cosigner.Keys(), a.body, l.text(300), [2]int{0, 300})
}

// A closed cosigner changes nothing: another process may have its folder by then.
func TestClosedCosignerChangesNothing(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "closed", 700)
	r := newRig(t, quorum.Mirror, l)
	r.mustAdd(l, 0, 300)
	r.addCheckpoint(l, 300, 600)
	closed := r.cosigner
	r.restart(l)
	r.current.Store(closed)
	want(t, "a checkpoint", r.addCheckpoint(l, 600, 700), 500, "")
	want(t, "entries", r.post("/add-entries", l.uploadBody(300, 600, nil, 9), octets), 500, "")
	r.current.Store(r.cosigner)
	r.mustUpload(l, 300, 600)
}

// A log signs again, as for a newer time or by a further key: the cosignatures are of
// the newest note, with the time of now.
func TestCosignaturesAreRenewed(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "renewed", 300)
	w := newRig(t, quorum.Witness, l)
	w.mustAdd(l, 0, 300)
	w.clock.Add(3600)
	if times := specVerify(t, w.cosigner.Keys(), w.mustAdd(l, 300, 300), l.text(300), [2]int{0, 300}); times[0] != uint64(w.clock.Load()) {
		t.Errorf("the witness' time is %d, want %d", times[0], w.clock.Load())
	}
	m := newRig(t, quorum.Mirror, l)
	first := m.mustAdd(l, 0, 300)
	m.clock.Add(3600)
	if again := m.mustAdd(l, 300, 300); again != first {
		t.Errorf("the mirror signed the same note again: %q", again)
	}
	// A clock that says nothing sensible keeps a new cosignature back, until it does.
	now := w.clock.Swap(-5)
	want(t, "with a clock before 1970", w.addCheckpoint(l, 300, 300), 500, "")
	w.clock.Store(now)
	w.mustAdd(l, 300, 300)
}

// Origins are bounded, and no log is added twice.
func TestOriginsAreBounded(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "bounded", 1)
	r := newRig(t, quorum.Witness, l)
	if _, err := r.cosigner.Add(t.Context(), logOf(t, l)); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a log twice: %v", err)
	}
	for i := range tlogmirror.MaxOrigins {
		_, err := r.cosigner.Add(t.Context(), logOf(t, newSpecLog(fmt.Sprintf("log.example/%d", i), "bounded", 1)))
		if (err == nil) != (i < tlogmirror.MaxOrigins-1) {
			t.Fatalf("log %d: %v", i+2, err)
		}
	}
	if a := r.addCheckpoint(l, 0, 1); a.code != http.StatusOK {
		t.Error(a)
	}
}
