package replica

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

// A mirror that had followed to the new key comes back to it after damage, whatever a
// thief says of the key before.
func TestDamagedMirrorKeepsTheNewestKey(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path string){
		"the proofs are lost": func(t *testing.T, path string) { mustRemove(t, path, rotationsFile) },
		"the proofs and the record are lost": func(t *testing.T, path string) {
			mustRemove(t, path, rotationsFile, keysFile)
		},
		"the checkpoint and the record are lost": func(t *testing.T, path string) {
			mustRemove(t, path, checkpointFile, keysFile)
		},
		"the checkpoint and the proofs are lost": func(t *testing.T, path string) {
			mustRemove(t, path, checkpointFile, rotationsFile)
		},
		"the checkpoint is lost": func(t *testing.T, path string) { mustRemove(t, path, checkpointFile) },
		"bundles are damaged": func(t *testing.T, path string) {
			bundles, err := filepath.Glob(filepath.Join(path, "tile/entries/*.p/*"))
			if err != nil || len(bundles) == 0 {
				t.Fatal(bundles, err)
			}
			for _, b := range bundles {
				if err := os.Truncate(b, 20); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRotated(t)
			f := newFollower(t, r.oldVkey)
			mustFollow(t, f, r.publisher)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, f.dir.path)
			f, err := OpenFollower(t.Context(), f.dir.path, r.oldVkey, quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			stolen, _ := newKey(t)
			evil, plain, honest := serve(t, r.otherThief(t, stolen).Ledger), serve(t, r.plainThief(t).Ledger), serve(t, r.publisher.Ledger)
			f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{evil, plain, honest} }
			for _, source := range []*client.Client{evil, plain} {
				if grown, err := f.Sync(t.Context(), source); err == nil || grown {
					t.Errorf("the thief's ledger was adopted: %v, %v", grown, err)
				}
			}
			mustFollow(t, f, r.publisher)
			mustNewestKey(t, f, r.newVkey)
			mustNotHave(t, f.Ledger, stolenImage)
		})
	}
}

func mustRemove(t *testing.T, path string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// A checkpoint that is lost comes from the sources only if the newest key signed it,
// although the holder of the old key has a larger one.
func TestRepairIsByTheNewestKey(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pinOld bool
		lost   []string // beside the checkpoint
	}{
		"the new key is pinned":                      {false, nil},
		"the old key is pinned":                      {true, nil},
		"the old key is pinned, nothing is recorded": {true, []string{keysFile, rotationsFile}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRotated(t)
			pinned := r.newVkey
			if tc.pinOld {
				pinned = r.oldVkey
			}
			f := newFollower(t, pinned)
			mustFollow(t, f, r.publisher)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			mustRemove(t, f.dir.path, append(tc.lost, checkpointFile)...)
			for _, thief := range []*publisher{r.plainThief(t), r.resigningThief(t)} {
				c := &Check{Path: f.dir.path, Key: pinned, Repair: true, Sources: []torchwood.TileReader{serve(t, thief.Ledger)}}
				if tc.lost != nil {
					c.Sources = append(c.Sources, serve(t, r.publisher.Ledger)) // which proves the rotation
				}
				if _, _, err := c.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			c := &Check{Path: f.dir.path, Key: pinned, Repair: true, Sources: []torchwood.TileReader{serve(t, r.publisher.Ledger)}}
			if problems, blocks, err := c.Run(t.Context()); err != nil || blocks != r.Size() {
				t.Fatalf("%d blocks, %v, %+v", blocks, err, problems)
			}
			f, err := OpenFollower(t.Context(), f.dir.path, pinned, quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mustNotHave(t, f.Ledger, stolenImage)
			mustFollow(t, f, r.publisher)
			mustNewestKey(t, f, r.newVkey)
		})
	}
}
