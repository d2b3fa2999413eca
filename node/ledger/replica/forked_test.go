package replica

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// mustConvict judges the files of evidence that a follower keeps: those of forks convict one key, with nothing
// else at hand, and no other file convicts anyone.
func mustConvict(t *testing.T, f *Follower, vkey string, forks int) {
	t.Helper()
	folder := filepath.Join(f.dir.path, evidenceFolder)
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(folder, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		j, err := ledger.Convict(data)
		if !strings.HasPrefix(file.Name(), string(ledger.EvidenceFork)) {
			if err == nil && len(j.Convicted) > 0 {
				t.Errorf("%s convicts %s: %s", file.Name(), j.Convicted, data)
			}
			continue
		}
		forks--
		if err != nil || len(j.Convicted) != 1 || j.Convicted[0].String() != vkey {
			t.Errorf("%s: %+v, %v, and should convict %s: %s", file.Name(), j, err, vkey, data)
		}
	}
	if forks != 0 {
		t.Errorf("there are %d forks fewer in the evidence than expected", forks)
	}
}

// What is kept of a fork convicts the publisher's key before anyone, whichever of the histories is the longer one.
func TestForksConvict(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][2]int{{2, 3}, {3, 2}, {3, 3}, {4, 7}, {300, 301}, {300, 256}} {
		t.Run(fmt.Sprintf("%d and %d blocks", sizes[0], sizes[1]), func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			p.publishMany(t, sizes[0])
			fork := &publisher{skey: p.skey, vkey: p.vkey, path: t.TempDir()}
			fork.open(t)
			fork.mustAppend(t, stolenImage, "another history")
			fork.publishMany(t, sizes[1])
			f := newFollower(t, p.vkey)
			mustFollow(t, f, p)
			mustRefuse(t, f, serve(t, fork.Ledger), ledger.EvidenceFork, p)
			mustConvict(t, f, p.vkey, 1)
		})
	}
}

// A publisher on an older disk signed one history: what is kept of it is a suspicion.
func TestRollbacksDoNotConvict(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	old, _ := p.Head()
	p.mustAppend(t, alpine, "two")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	later := p.signed(t, f.Origin(), tlog.Tree{N: 1, Hash: old.Tree.Hash}, time.Now().Add(time.Hour))
	if err := f.keepEvidence(ledger.Evidence{Kind: ledger.EvidenceRollback, Received: string(later)}); err != nil {
		t.Fatal(err)
	}
	mustConvict(t, f, p.vkey, 0)
	data, err := os.ReadFile(filepath.Join(f.dir.path, evidenceFolder, mustOneFile(t, f)))
	if err != nil {
		t.Fatal(err)
	}
	if j, err := ledger.Convict(data); err != nil || !strings.Contains(j.Suspicion, "1 blocks were signed at") {
		t.Errorf("%+v, %v", j, err)
	}
}

func mustOneFile(t *testing.T, f *Follower) string {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(f.dir.path, evidenceFolder))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files of evidence, %v, want 1", len(files), err)
	}
	return files[0].Name()
}
