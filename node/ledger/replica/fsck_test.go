package replica

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// copyDir copies a ledger for tests that damage it.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// manyBlocks is a closed publisher's ledger with full and partial tiles on two
// levels, and its URL at a mirror.
func manyBlocks(t *testing.T) (*publisher, *client.Client) {
	t.Helper()
	p := newPublisher(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error)
	const n = 600
	for i := range n {
		go func() {
			_, err := p.Append(ctx, artifact(fmt.Sprintf("docker.io/library/i%d:1", i), "x"))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	second, _ := newKey(t)
	p.skey += "\n" + second // during a rotation, which is written down too
	if err := p.reopen(t, p.skey); err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	source := serve(t, f.Ledger)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return p, source
}

// Each kind of file, damaged in each way: fsck finds it and names it, repairs
// what follows from the rest, and the rest from a copy; and then the publisher
// goes on.
func TestFsckFindsAndRepairs(t *testing.T) {
	t.Parallel()
	p, mirror := manyBlocks(t)
	size := p.Size()
	partial := fmt.Sprintf("tile/0/002.p/%d", size-512)
	bundle := fmt.Sprintf("tile/entries/002.p/%d", size-512)
	for _, c := range []struct {
		file  string
		alone bool // repaired without a copy
	}{
		{"tile/0/000", true}, {"tile/1/000.p/2", true}, {partial, true}, {stateFile, true},
		{"tile/entries/001", false}, {bundle, false}, {checkpointFile, false}, {rotationsFile, true},
	} {
		for name, damage := range map[string]func(t *testing.T, file string){
			"a flipped bit": func(t *testing.T, file string) {
				if err := flipBit(file, 5); err != nil {
					t.Fatal(err)
				}
			},
			"truncated": func(t *testing.T, file string) {
				if err := os.Truncate(file, 9); err != nil {
					t.Fatal(err)
				}
			},
			"gone": func(t *testing.T, file string) {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			},
		} {
			if c.file == rotationsFile && name != "truncated" || name == "gone" && (c.file == stateFile || strings.HasPrefix(c.file, "tile/0/")) {
				continue // no proof is trusted without its signature; and mirrors have none of the others
			}
			t.Run(c.file+" "+name, func(t *testing.T) {
				path := copyDir(t, p.path)
				damage(t, filepath.Join(path, filepath.FromSlash(c.file)))
				run := func(repair bool, sources ...torchwood.TileReader) []Problem {
					problems, _, err := (&Check{Path: path, Key: p.vkey, Repair: repair, Sources: sources}).Run(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					return problems
				}
				named := func(problems []Problem) bool {
					return slices.ContainsFunc(problems, func(p Problem) bool { return p.Path == c.file && p.Message != "" })
				}
				if found := run(false); !named(found) {
					t.Fatalf("found %+v: %s is not named", found, c.file)
				}
				if again := run(false); !named(again) {
					t.Fatalf("a check has changed something: now %+v", again)
				}
				alone := run(true)
				repaired := !slices.ContainsFunc(alone, func(p Problem) bool { return !p.Repaired })
				if repaired != c.alone {
					t.Errorf("without a copy: %+v, want repaired %t", alone, c.alone)
				}
				if !repaired {
					for _, p := range run(true, mirror) {
						if !p.Repaired {
							t.Errorf("with a copy: %+v", p)
						}
					}
				}
				if left := run(false); len(left) > 0 {
					t.Errorf("after the repair: %+v", left)
				}
				w, err := OpenWriter(t.Context(), path, p.skey, quiet())
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				if h, err := w.Append(t.Context(), artifact(alpine, "after")); err != nil || h != size {
					t.Errorf("block %d, %v, want %d", h, err, size)
				}
			})
		}
	}
}

func TestFsckOfAHealthyLedgerFindsNothing(t *testing.T) {
	t.Parallel()
	p, _ := manyBlocks(t)
	problems, blocks, err := (&Check{Path: p.path, Key: p.vkey, Repair: true}).Run(t.Context())
	if err != nil || blocks != p.Size() {
		t.Errorf("%d blocks, %v", blocks, err)
	}
	if diff := cmp.Diff([]Problem(nil), problems); diff != "" {
		t.Error(diff)
	}
	p.open(t)
	if _, _, err := (&Check{Path: p.path, Key: p.vkey}).Run(t.Context()); err == nil {
		t.Error("a ledger was checked that a publisher is writing")
	}
}

// An index that says something else than the blocks is found, also when its
// own checksum is right, and made again.
func TestFsckComparesTheIndex(t *testing.T) {
	t.Parallel()
	p, _ := manyBlocks(t)
	path := copyDir(t, p.path)
	folder := filepath.Join(path, indexFolder)
	// An index of shorter segments is one that the blocks do not lead to.
	x, err := index.Open(folder, 16)
	if err != nil {
		t.Fatal(err)
	}
	data, err := artifact(alpine, "x").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := torchwood.AppendTileEntry(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		b := index.NewBatch()
		if !b.Scan(bundle, 1, 0) {
			t.Fatal("it is no bundle")
		}
		if err := x.Add(b, func(int64) (tlog.Hash, error) { return tlog.Hash{}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	problems, _, err := (&Check{Path: path, Key: p.vkey, Repair: true}).Run(t.Context())
	if err != nil || len(problems) != 1 || !problems[0].Repaired {
		t.Errorf("%+v, %v", problems, err)
	}
}

func TestRestoreOfALostPublisher(t *testing.T) {
	t.Parallel()
	p, mirror := manyBlocks(t)
	size := p.Size()
	lost := filepath.Join(t.TempDir(), "new disk")
	n, err := Restore(t.Context(), lost, p.skey, []torchwood.TileReader{client.New("http://127.0.0.1:1", http.DefaultClient), mirror}, quiet())
	if err != nil || n != size {
		t.Fatalf("%d blocks, %v, want %d", n, err, size)
	}
	w, err := OpenWriter(t.Context(), lost, p.skey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	again := &publisher{Writer: w, skey: p.skey, vkey: p.vkey, path: lost}
	if h := again.mustAppend(t, alpine, "after the loss"); h != size {
		t.Errorf("block %d, want %d", h, size)
	}
	f := newFollower(t, p.vkey)
	if _, err := f.Sync(t.Context(), mirror); err != nil {
		t.Fatal(err)
	}
	mustFollow(t, f, again) // it extends what the mirrors have
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := Restore(t.Context(), lost, p.skey, []torchwood.TileReader{mirror}, quiet()); err != nil || n != size+1 {
		t.Errorf("restored over a ledger that is ahead: %d blocks, %v, want %d", n, err, size+1)
	}
	if _, err := Restore(t.Context(), t.TempDir(), p.skey, []torchwood.TileReader{client.New("http://127.0.0.1:1", http.DefaultClient)}, quiet()); err == nil {
		t.Error("a ledger was restored from nobody")
	}
}

// A disk that was rolled back, and on which the publisher went on, is not
// restored over: two histories were signed.
func TestRestoreRefusesAFork(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	snapshot := copyDir(t, p.path)
	p.open(t)
	p.mustAppend(t, alpine, "two")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	// Behind alone is completed.
	behind := copyDir(t, snapshot)
	if n, err := Restore(t.Context(), behind, p.skey, []torchwood.TileReader{serve(t, f.Ledger)}, quiet()); err != nil || n != 2 {
		t.Errorf("a disk that was rolled back: %d blocks, %v, want 2", n, err)
	}
	w, err := OpenWriter(t.Context(), snapshot, p.skey, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"other", "and another"} {
		if _, err := w.Append(t.Context(), artifact(alpine, content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), snapshot, p.skey, []torchwood.TileReader{serve(t, f.Ledger)}, quiet()); err == nil {
		t.Error("a second history was restored over")
	}
}
