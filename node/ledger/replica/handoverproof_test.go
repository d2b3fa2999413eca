package replica

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A proof of a hand-over counts only for a ledger that begins with the one which
// the key before has signed.
func TestProofOfAnotherLedgerProvesNothing(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	second, _ := newKey(t)
	if err := p.reopen(t, p.skey, second); err != nil {
		t.Fatal(err)
	}
	cut := &publisher{path: copyDir(t, p.path), skey: second}
	p.mustAppend(t, alpine, "two") // the old key signs this one, and no other history
	entry, proof, err := p.Block(t.Context(), 1)
	if err != nil || entry.Rotation == nil {
		t.Fatal(entry, err)
	}
	cut.open(t)
	for _, content := range []string{"other", "and another"} {
		cut.mustAppend(t, alpine, content)
	}
	told, err := json.Marshal([]ledger.Rotation{{Entry: string(entry.Data), Proof: string(proof)}})
	if err != nil {
		t.Fatal(err)
	}
	forger := altered(t, cut.Ledger, func(path string, b []byte) []byte {
		if path == "/api/v1/rotations" {
			return told
		}
		return b
	})
	mustRefuse(t, f, forger, ledger.EvidenceBadSignature, p)
}

// Whatever a source tells of rotations, nothing of it is kept before the tree is.
func TestToldRotationsAreNotKeptAlone(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/tile") || strings.HasPrefix(req.URL.Path, "/api/v1/entries") {
			http.Error(w, "the source goes away", http.StatusServiceUnavailable)
			return
		}
		r.Handler().ServeHTTP(w, req)
	}))
	defer s.Close()
	if _, err := f.Sync(t.Context(), client.New(s.URL, http.DefaultClient)); err == nil {
		t.Fatal("a ledger without blocks was adopted")
	}
	mustNewestKey(t, f, r.oldVkey)
	if _, err := os.Stat(filepath.Join(f.dir.path, rotationsFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a source told was kept: %v", err)
	}
	mustFollow(t, f, r.publisher)
}

// A crash between keeping the proofs and storing the checkpoint: the key does not
// count, because its block is not in the tree; and then it does.
func TestCrashBetweenTheProofAndTheHead(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	f := newFollower(t, r.oldVkey)
	old := &publisher{path: copyDir(t, r.before), skey: r.oldSkey, vkey: r.oldVkey}
	old.open(t)
	mustFollow(t, f, old)
	head, err := os.ReadFile(filepath.Join(f.dir.path, checkpointFile))
	if err != nil {
		t.Fatal(err)
	}
	mustFollow(t, f, r.publisher)
	if err := os.WriteFile(filepath.Join(f.dir.path, checkpointFile), head, 0o644); err != nil {
		t.Fatal(err)
	}
	f = f.reopen(t, r.oldVkey)
	mustNewestKey(t, f, r.oldVkey)
	if n := len(f.Rotations()); n != 0 {
		t.Errorf("%d rotations count that are not in the tree", n)
	}
	mustFollow(t, f, r.publisher)
	mustNewestKey(t, f, r.newVkey)
}

// A publisher that dies between signing the block that hands over and keeping its
// proof makes the proof at its next start.
func TestPublisherKeepsTheProofAfterACrash(t *testing.T) {
	t.Parallel()
	r := newRotated(t)
	if err := os.Remove(filepath.Join(r.both, rotationsFile)); err != nil {
		t.Fatal(err)
	}
	p := &publisher{path: r.both, skey: r.oldSkey + "\n" + r.newSkey}
	p.open(t)
	if err := p.reopen(t, r.newSkey); err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, r.oldVkey)
	mustFollow(t, f, p)
	mustNewestKey(t, f, r.newVkey)
}
