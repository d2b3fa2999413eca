package replica

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

var paddings atomic.Int64

// padding is a signature line that anyone can add to a checkpoint: each time
// another one, of so many bytes that JSON may write as six.
func padding(n int) string {
	return fmt.Sprintf("— %s%d %s\n", strings.Repeat("<", n), paddings.Add(1), base64.StdEncoding.EncodeToString(make([]byte, 8)))
}

// What strangers add to a checkpoint is neither kept nor handed on, and what the
// ledger's key signed is.
func TestPaddingIsNotHandedOn(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	head, _ := p.Head()
	text, lines, _ := strings.Cut(string(head.Signed), "\n\n")
	first, _, _ := strings.Cut(lines, "\n")
	// A broken line under the key's own name has strict readers refuse the whole.
	broken := first[:len(first)-8] + "AAAAAAA=\n"
	f := newFollower(t, p.vkey)
	if grown, err := f.Sync(t.Context(), withCheckpoint(t, p.Ledger, []byte(text+"\n\n"+lines+broken+padding(90<<10)))); err != nil || !grown {
		t.Fatalf("grown %v, %v", grown, err)
	}
	check := func(when string, f *Follower) {
		t.Helper()
		got, _ := f.Head()
		stored, err := os.ReadFile(filepath.Join(f.dir.path, checkpointFile))
		if string(got.Signed) != string(head.Signed) || string(stored) != string(head.Signed) || err != nil {
			t.Errorf("%s: the head has %d bytes, the file %d, %v; signed were %d", when, len(got.Signed), len(stored), err, len(head.Signed))
		}
		_, proof, err := f.Block(t.Context(), 0)
		if err != nil || !strings.HasSuffix(string(proof), "\n\n"+string(head.Signed)) {
			t.Errorf("%s: the proof of a block has %d bytes, %v", when, len(proof), err)
		}
	}
	check("adopted", f)
	check("after a restart", f.reopen(t, p.vkey))
}

// Nor is what they add to the proofs that the ledger was handed over, in any file.
func TestPaddedRotationsAreKeptWithoutIt(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	padded := 0
	_, err := f.Sync(t.Context(), altered(t, r.Ledger, func(path string, b []byte) []byte {
		if path == "/checkpoint" {
			padded++
			return append(b, padding(4<<10)...)
		}
		if path != "/api/v1/rotations" {
			return b
		}
		var rotations []ledger.Rotation
		if err := json.Unmarshal(b, &rotations); err != nil {
			t.Error(err)
		}
		for i := range rotations {
			padded++
			rotations[i].Proof += padding(4 << 10)
		}
		b, err := json.Marshal(rotations)
		if err != nil {
			t.Error(err)
		}
		return b
	}))
	if err != nil {
		t.Fatal(err)
	}
	mustNewestKey(t, f, r.newVkey)
	if padded < 2 {
		t.Fatalf("%d answers were padded", padded)
	}
	for _, name := range []string{keysFile, rotationsFile, checkpointFile} {
		data, err := os.ReadFile(filepath.Join(f.dir.path, name))
		if err != nil || len(data) > 4<<10 {
			t.Errorf("%s has %d bytes, %v", name, len(data), err)
		}
	}
}

// While two keys sign, a mirror hands on what both signed: some know the old alone.
func TestBothKeysSignaturesAreHandedOn(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	both := &publisher{path: copyDir(t, r.both), skey: r.oldSkey + "\n" + r.newSkey}
	both.open(t)
	f := newFollower(t, r.oldVkey)
	mustFollow(t, f, both)
	mustNewestKey(t, f, r.newVkey)
	head, _ := f.Head()
	for _, vkey := range []string{r.oldVkey, r.newVkey} {
		v, err := ledger.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := ledger.VerifyCheckpoint(v, head.Signed); err != nil || c.Time.IsZero() {
			t.Errorf("signed by %s at %s, %v", vkey, c.Time, err)
		}
	}
}

// Anyone can cause refusals without a key: the evidence that is kept stays small,
// in each answer too, and still proves the same.
func TestEvidenceStaysSmall(t *testing.T) {
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	p.mustAppend(t, alpine, "two")
	head, _ := p.Head()
	text, _, _ := strings.Cut(string(head.Signed), "\n\n")
	offer := func(signed string, data []byte) error {
		_, err := f.Sync(t.Context(), altered(t, p.Ledger, func(path string, b []byte) []byte {
			switch {
			case path == "/checkpoint":
				return []byte(signed)
			case data != nil && !strings.HasPrefix(path, "/api/v1/rotations"):
				return data
			default:
				return b
			}
		}))
		return err
	}
	for range maxEvidence + 2 {
		if err := errors.Join(offer(string(head.Signed)+padding(93<<10), []byte("xx")), offer(text+"\n\n"+padding(15<<10), nil)); err == nil {
			t.Fatal("it was not refused")
		}
	}
	fork := p.signed(t, f.Origin(), tlog.Tree{N: 1, Hash: tlog.Hash{1}}, time.Now())
	mustRefuse(t, f, withCheckpoint(t, p.Ledger, append(fork, padding(93<<10)...)), ledger.EvidenceFork, p)

	evidence, err := f.Evidence()
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range evidence {
		if e.Kind != ledger.EvidenceFork {
			continue
		}
		for _, signed := range []string{e.Verified, e.Received} {
			if _, err := ledger.VerifyCheckpoint(v, []byte(signed)); err != nil {
				t.Errorf("the evidence of a fork proves nothing: %v", err)
			}
		}
	}
	if size := folderSize(t, filepath.Join(f.dir.path, evidenceFolder)); size > 1<<20 {
		t.Errorf("%d kB on the disk", size>>10)
	}
	answer := httptest.NewRecorder()
	f.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/api/v1/evidence", nil))
	if answer.Body.Len() > 1<<20 {
		t.Errorf("an answer of %d kB", answer.Body.Len()>>10)
	}
	again := ledger.Evidence{Kind: ledger.EvidenceBadSignature, Peer: "a peer", Received: text}
	if took := allocated(func() { err = f.keepEvidence(again) }); err != nil || took > 256<<10 {
		t.Errorf("a further refusal takes %d kB, %v", took>>10, err)
	}
	// It may have had room.
	if evidence, err = f.Evidence(); err != nil {
		t.Fatal(err)
	}
	f = f.reopen(t, p.vkey)
	if after, err := f.Evidence(); err != nil || len(after) != len(evidence) {
		t.Errorf("after a restart there are %d pieces, %v, want %d", len(after), err, len(evidence))
	}
}

// What an earlier version has kept of padded checkpoints is read, and cut.
func TestOldLargeEvidenceIsCut(t *testing.T) {
	t.Parallel()
	_, f := aged(t, time.Now())
	folder := filepath.Join(f.dir.path, evidenceFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	large := fmt.Sprintf(`{"kind":"Fork","time":"2026-01-01T00:00:00Z","peer":"p","message":"m","received":%q}`, strings.Repeat("<", 500<<10))
	if err := os.WriteFile(filepath.Join(folder, "Fork-0123456789abcdef.json"), []byte(large), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEvidence(f.dir.path)
	if err != nil || len(got) != 1 || got[0].Kind != ledger.EvidenceFork || len(got[0].Received) > maxReceived {
		t.Errorf("%d pieces, %v", len(got), err)
	}
}

func folderSize(t *testing.T, folder string) (size int64) {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}
