package ledger

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// handOver is the proof that a history's log handed over in the block after it, signed so many blocks later.
func handOver(t testing.TB, h history, from, to SigningKey, later int64) (history, Rotation) {
	t.Helper()
	entry, err := (&RotateKey{Type: TypeRotateKey, Version: 1, Previous: from.Key, Key: to.Key, Time: courtTime}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	height := h.blocks()
	h = h.with(t, entry)
	for range later {
		h = h.with(t, []byte("later"))
	}
	n := h.blocks()
	proof, err := tlog.ProveRecord(n, height, h)
	if err != nil {
		t.Fatal(err)
	}
	return h, Rotation{Entry: string(entry), Proof: string(torchwood.FormatProof(height, proof, []byte(signed(t, courtText(courtOrigin, h.tree(t, n)), from))))}
}

// A key that hands over twice convicts itself only if the hand-overs are of two histories: its honest holder may
// have changed his mind.
func TestHandOversConvict(t *testing.T) {
	from, one, two := courtKey(t), courtKey(t), courtKey(t)
	h := newHistory(t, 4, 4)
	first, toOne := handOver(t, h, from, one, 0)
	_, toTwo := handOver(t, h, from, two, 0)
	later, toTwoLater := handOver(t, first, from, two, 0)
	_, elsewhere := handOver(t, newHistory(t, 6, 0), from, two, 0)

	_, toTwoOfMore := handOver(t, h, from, two, 2)
	for _, other := range []Rotation{toTwo, toTwoOfMore} {
		if j := judge(t, Evidence{Kind: EvidenceTwoSuccessors, Rotations: []Rotation{toOne, other}}); !slices.Equal(names(j.Convicted), []string{from.Key}) {
			t.Errorf("two blocks at one height: %+v", j)
		}
	}
	if j := judge(t, Evidence{Kind: EvidenceTwoSuccessors, Rotations: []Rotation{toOne, toTwoLater}}); len(j.Convicted) > 0 || j.Suspicion == "" {
		t.Errorf("one after the other: %+v", j)
	}
	if j := judge(t, Evidence{Kind: EvidenceTwoSuccessors, Rotations: []Rotation{toOne, elsewhere}}); len(j.Convicted) > 0 || j.Suspicion == "" {
		t.Errorf("two heights, and nothing that compares the ledgers: %+v", j)
	}
	// A hand-over that is a checkpoint of the other history, too.
	e := Evidence{Received: signed(t, courtText(courtOrigin, newHistory(t, 5, 2).tree(t, 5)), from), Rotations: []Rotation{toOne}}
	if j := judge(t, e); !slices.Equal(names(j.Convicted), []string{from.Key}) {
		t.Errorf("a hand-over and a checkpoint of one size: %+v", j)
	}
	// The new key is not to blame for what the retired one signs.
	e = Evidence{
		Verified: signed(t, courtText(courtOrigin, later.tree(t, 6)), one), Rotations: []Rotation{toOne},
		Received: signed(t, courtText(courtOrigin, newHistory(t, 6, 5).tree(t, 6)), from),
	}
	if j := judge(t, e); len(j.Convicted) > 0 || !strings.Contains(j.Suspicion, "no key signed both") {
		t.Errorf("a retired key signs on: %+v", j)
	}
	// What is no hand-over proves nothing, and hides nothing.
	e = forkEvidence(t, newHistory(t, 5, 5), newHistory(t, 5, 1), 5, 5, from)
	e.Keys, e.Rotations = []string{from.Key}, []Rotation{{Entry: toOne.Entry}, {Entry: "x", Proof: toOne.Proof}}
	if j := judge(t, e); !slices.Equal(names(j.Convicted), []string{from.Key}) {
		t.Errorf("with broken hand-overs: %+v", j)
	}
}

func TestEvidenceThatCannotBeRead(t *testing.T) {
	c := newCourt(t)
	good := signed(t, courtText(courtOrigin, newHistory(t, 2, 2).tree(t, 2)), c.log)
	text := func(e Evidence) string {
		file, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return string(file)
	}
	for name, x := range map[string]struct{ file, want string }{
		"nothing":          {"", "evidence"},
		"a list":           {"[" + text(Evidence{Received: good}) + "]", "want one object"},
		"no checkpoint":    {`{"kind":"Fork"}`, "no signed checkpoint"},
		"a broken key":     {text(Evidence{Received: good, Keys: []string{"a+b+c"}}), "verifier key"},
		"no note":          {text(Evidence{Received: "x"}), "received: signed note"},
		"no checkpoint in": {text(Evidence{Verified: signed(t, "hello\n", c.log)}), "verified: text of a checkpoint"},
		"too many values":  {`{"received":"x","keys":[` + strings.Repeat(`"",`, 2000) + `""]}`, "1024 values"},
		"too many keys":    {text(Evidence{Received: good, Keys: slices.Repeat([]string{c.log.Key}, 257)}), "256 keys"},
		"too long":         {strings.Repeat(" ", MaxEvidenceFile+1), "at most 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			if j, err := Convict([]byte(x.file)); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%+v, %v, want %q", j, err, x.want)
			}
		})
	}
}

// Whatever is written into a file, the keys of an honest log and of honest cosigners are not convicted by it.
func FuzzConvict(f *testing.F) {
	c := newCourt(f)
	forger := courtKey(f)
	h, other := newHistory(f, 6, 6), newHistory(f, 6, 2)
	for _, by := range [][]any{{c.log, c.ed25519, c.mldsa}, {forger}} {
		for _, sizes := range [][2]int64{{4, 4}, {4, 6}, {5, 6}} {
			e := forkEvidence(f, h, h, sizes[0], sizes[1], by...)
			if by[0] == any(forger) {
				e = forkEvidence(f, h, other, sizes[0], sizes[1], by...)
			}
			e.Keys = append(slices.Clone(c.everyone), forger.Key)
			file, err := json.Marshal(e)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(file)
		}
	}
	_, r := handOver(f, h, c.log, forger, 0)
	file, err := json.Marshal(Evidence{Rotations: []Rotation{r}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, file []byte) {
		j, err := Convict(file, c.everyone...)
		if err != nil {
			return
		}
		for _, k := range j.Convicted {
			if slices.Contains(c.everyone, k.String()) {
				t.Errorf("%s is convicted by %s", k, file)
			}
		}
		if (len(j.Convicted) > 0) == (j.Suspicion != "") {
			t.Errorf("%+v", j)
		}
	})
}
