package replica

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/torchwood"
)

// What version 0.1.0 wrote goes on: a rotation that was given up, and a second key
// that one key named after it. The key that signed the head that is stored counts.
func TestLedgersOfVersion010GoOn(t *testing.T) {
	t.Parallel()
	for name, abandoned := range map[string]bool{"a rotation was given up": true, "a second successor": false} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher(t)
			first, firstV := p.skey, p.vkey
			second, _ := newKey(t)
			third, thirdV := newKey(t)
			if err := p.reopen(t, first, second); err != nil {
				t.Fatal(err)
			}
			steps, signs, want := [][]string{{first}}, first, firstV
			if !abandoned {
				steps, signs, want = [][]string{{first, third}, {third}}, third, thirdV
			}
			for _, keys := range steps {
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				p.openAnyway(t, keys...) // as version 0.1.0 did
				p.mustAppend(t, alpine, keys[len(keys)-1])
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p.Writer = nil
			if err := os.Remove(filepath.Join(p.path, keysFile)); err != nil { // it wrote none
				t.Fatal(err)
			}
			mirror := copyDir(t, p.path)
			for range 2 {
				f, err := OpenFollower(t.Context(), mirror, firstV, quiet())
				if err != nil {
					t.Fatal(err)
				}
				mustNewestKey(t, f, want)
				evidence, err := f.Evidence()
				if err != nil || len(evidence) != 1 || evidence[0].Key != want {
					t.Errorf("evidence %+v, %v", evidence, err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			f, err := OpenFollower(t.Context(), mirror, firstV, quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.Others = func() []torchwood.TileReader { return []torchwood.TileReader{serve(t, p.Ledger)} } // which prove all hand-overs
			fourth, fourthV := newKey(t)
			for _, keys := range [][]string{{signs}, {signs, fourth}, {fourth}} {
				if err := p.reopen(t, keys...); err != nil {
					t.Fatal(err)
				}
				p.mustAppend(t, alpine, "now by "+keys[len(keys)-1])
				mustFollow(t, f, p)
			}
			mustNewestKey(t, f, fourthV)
			f = f.reopen(t, firstV)
			mustNewestKey(t, f, fourthV)
		})
	}
}
