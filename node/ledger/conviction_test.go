package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

const courtOrigin = "example.com/court"

var courtTime = time.Unix(1_800_000_000, 0).UTC()

// history is a tree of a log: it implements tlog.HashReader.
type history []tlog.Hash

// newHistory has so many blocks, those from fork on other ones than without a fork.
func newHistory(t testing.TB, blocks, fork int) (h history) {
	t.Helper()
	for i := range blocks {
		entry := fmt.Sprint("block ", i)
		if i >= fork {
			entry += ", of the other history"
		}
		h = h.with(t, []byte(entry))
	}
	return h
}

func (h history) blocks() (n int64) {
	for tlog.StoredHashIndex(0, n) < int64(len(h)) {
		n++
	}
	return n
}

func (h history) with(t testing.TB, entry []byte) history {
	t.Helper()
	hashes, err := tlog.StoredHashes(h.blocks(), entry, h)
	if err != nil {
		t.Fatal(err)
	}
	return append(h, hashes...)
}

func (h history) ReadHashes(indexes []int64) (out []tlog.Hash, err error) {
	for _, i := range indexes {
		out = append(out, h[i])
	}
	return out, nil
}

func (h history) tree(t testing.TB, n int64) tlog.Tree {
	t.Helper()
	root, err := tlog.TreeHash(n, h)
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Tree{N: n, Hash: root}
}

// court are a log and two cosigners.
type court struct {
	log      SigningKey
	ed25519  *cosign.Signer
	mldsa    *cosign.Signer
	everyone []string // their verifier keys
}

func newCourt(t testing.TB) *court {
	t.Helper()
	c := &court{log: courtKey(t)}
	for alg, s := range map[cosign.Algorithm]**cosign.Signer{cosign.Ed25519: &c.ed25519, cosign.MLDSA44: &c.mldsa} {
		var err error
		if *s, err = cosign.Generate(alg, "example.com/mirror"); err != nil {
			t.Fatal(err)
		}
	}
	c.everyone = []string{c.log.Key, c.ed25519.Key().String(), c.mldsa.Key().String()}
	return c
}

func courtKey(t testing.TB) SigningKey {
	t.Helper()
	skey, _, err := GenerateKey(courtOrigin)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ReadSigningKeys(skey)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0]
}

func courtText(origin string, tree tlog.Tree) string {
	return torchwood.Checkpoint{Origin: origin, Tree: tree}.String()
}

// signed is a checkpoint by some keys: a SigningKey of a log, or a *cosign.Signer.
func signed(t testing.TB, text string, by ...any) string {
	t.Helper()
	out := text + "\n"
	for _, k := range by {
		switch k := k.(type) {
		case SigningKey:
			n, err := note.Sign(&note.Note{Text: text}, k.Signer)
			if err != nil {
				t.Fatal(err)
			}
			_, line, _ := strings.Cut(string(n), "\n\n")
			out += line
		case *cosign.Signer:
			line, err := k.Cosign(text, courtTime)
			if err != nil {
				t.Fatal(err)
			}
			out += line
		}
	}
	return out
}

func judge(t testing.TB, e Evidence, vkeys ...string) *Judgement {
	t.Helper()
	file, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	j, err := Convict(file, vkeys...)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func names(keys []*cosign.Key) (out []string) {
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

// forkEvidence is what a node keeps of two histories with one key.
func forkEvidence(t testing.TB, one, other history, a, b int64, by ...any) Evidence {
	t.Helper()
	e := Evidence{
		Kind:     EvidenceFork,
		Verified: signed(t, courtText(courtOrigin, one.tree(t, a)), by...),
		Received: signed(t, courtText(courtOrigin, other.tree(t, b)), by...),
	}
	if a != b {
		larger := other
		if a > b {
			larger = one
		}
		if err := e.ProveFork(min(a, b), larger.tree(t, max(a, b)), larger); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// Each pair of sizes, and each block at which the histories part, convicts; where they part later, nothing does.
func TestTwoHistoriesConvict(t *testing.T) {
	const most = 9
	c := newCourt(t)
	one := newHistory(t, most, most)
	for fork := range most {
		other := newHistory(t, most, fork)
		for a := int64(1); a <= most; a++ {
			for b := int64(1); b <= most; b++ {
				e := forkEvidence(t, one, other, a, b, c.log)
				e.Keys = []string{c.log.Key}
				j := judge(t, e)
				if guilty := min(a, b) > int64(fork); guilty != slices.Equal(names(j.Convicted), e.Keys) || guilty != (j.Contradiction != "") || guilty != (j.Suspicion == "") {
					t.Errorf("parted at block %d, sizes %d and %d: %+v", fork, a, b, j)
				}
			}
		}
	}
}

// Of all who signed, those are convicted who signed both, logs as well as cosigners of either kind.
func TestWhoSignedBothIsConvicted(t *testing.T) {
	c := newCourt(t)
	one, other := newHistory(t, 8, 8), newHistory(t, 8, 3)
	for _, sizes := range [][2]int64{{5, 5}, {5, 8}, {8, 5}, {4, 6}} {
		e := forkEvidence(t, one, other, sizes[0], sizes[1], c.log, c.ed25519, c.mldsa)
		e.Keys = c.everyone
		if j := judge(t, e); !slices.Equal(names(j.Convicted), c.everyone) {
			t.Errorf("%v: %+v", sizes, j)
		}
		// The file needs no keys of those whom the reader knows.
		e.Keys = nil
		if j := judge(t, e, c.everyone[2]); !slices.Equal(names(j.Convicted), c.everyone[2:]) {
			t.Errorf("%v: with a key from elsewhere: %+v", sizes, j)
		}
		// Who signed one of them is not convicted.
		e = forkEvidence(t, one, other, sizes[0], sizes[1], c.log, c.ed25519)
		text, _, _ := strings.Cut(e.Received, "\n\n")
		e.Received = signed(t, text+"\n", c.log, c.mldsa)
		e.Keys = c.everyone
		if j := judge(t, e); !slices.Equal(names(j.Convicted), c.everyone[:1]) {
			t.Errorf("%v: one cosigner on each side: %+v", sizes, j)
		}
	}
}

// What an honest log signed convicts nobody, whatever proof somebody puts beside it.
func TestHonestIsNeverConvicted(t *testing.T) {
	const most = 6
	c := newCourt(t)
	h, other := newHistory(t, most, most), newHistory(t, most, 1)
	roots := []string{"", "not base64", strings.Repeat("A", 43) + "="}
	var proofs [][]string
	for _, h := range []history{h, other} {
		for _, hash := range h {
			roots = append(roots, hash.String())
		}
		for b := int64(1); b <= most; b++ {
			roots = append(roots, h.tree(t, b).Hash.String())
			for a := int64(1); a <= b; a++ {
				proof, err := tlog.ProveTree(b, a, h)
				if err != nil {
					t.Fatal(err)
				}
				proofs = append(proofs, EncodeHashes(proof))
			}
		}
	}
	slices.Sort(roots)
	roots = slices.Compact(roots)
	checkpoints := make([]string, most+1)
	for n := range checkpoints {
		checkpoints[n] = signed(t, courtText(courtOrigin, h.tree(t, int64(n))), c.log)
	}
	k, err := cosign.ParseKey(c.log.Key)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for a := range checkpoints {
		for b := range checkpoints {
			// As Convict does it, without verifying the same signatures each time.
			one, err1 := readStatement([]byte(checkpoints[a]), []*cosign.Key{k})
			two, err2 := readStatement([]byte(checkpoints[b]), []*cosign.Key{k})
			if err1 != nil || err2 != nil || !one.isBy(k) || !two.isBy(k) {
				t.Fatal(err1, err2)
			}
			for _, root := range roots {
				for _, proof := range proofs {
					tried++
					if found := contradict(one, two, Evidence{Root: root, Proof: proof}); found != "" {
						t.Fatalf("%d and %d blocks, root %s, proof %v: %s", a, b, root, proof, found)
					}
				}
			}
		}
	}
	if tried < 10_000 {
		t.Errorf("%d proofs were tried: too few", tried)
	}
}

// What looks wrong, and what an honest holder of the key may have done too.
func TestSuspicionsConvictNobody(t *testing.T) {
	c := newCourt(t)
	next := courtKey(t)
	stranger := courtKey(t)
	h, other := newHistory(t, 8, 8), newHistory(t, 8, 3)
	at := func(tree tlog.Tree, at time.Time) string {
		text := courtText(courtOrigin, tree)
		line, err := c.ed25519.Cosign(text, at)
		if err != nil {
			t.Fatal(err)
		}
		return signed(t, text, c.log) + line
	}
	fork := func(a, b int64, change func(*Evidence)) Evidence {
		e := forkEvidence(t, h, other, a, b, c.log)
		e.Keys = c.everyone
		change(&e)
		return e
	}
	foreign := signed(t, courtText("example.com/other", other.tree(t, 5)), c.log, c.ed25519)
	for _, x := range []struct {
		name string
		e    Evidence
		want string
	}{
		{"a smaller ledger later", Evidence{Verified: at(h.tree(t, 8), courtTime), Received: at(h.tree(t, 5), courtTime.Add(time.Hour)), Keys: c.everyone}, "5 blocks were signed at 2027-01-15T09:00:00Z, after 8 blocks"},
		{"a smaller ledger before", Evidence{Verified: at(h.tree(t, 8), courtTime), Received: at(h.tree(t, 5), courtTime.Add(-time.Hour)), Keys: c.everyone}, "it does not show how the ledger of 8 blocks begins"},
		{"two histories, without a proof", fork(5, 8, func(e *Evidence) { e.Root, e.Proof = "", nil }), "it does not show how the ledger of 8 blocks begins"},
		{"a proof that is cut", fork(5, 8, func(e *Evidence) { e.Proof = e.Proof[1:] }), "nothing in it contradicts"},
		{"a proof of another root", fork(5, 8, func(e *Evidence) { e.Root = h.tree(t, 6).Hash.String() }), "nothing in it contradicts"},
		{"the larger one signed by nobody", fork(5, 8, func(e *Evidence) { e.Received = signed(t, courtText(courtOrigin, other.tree(t, 8)), stranger) }), "signed by none of the keys"},
		{"no keys", fork(5, 5, func(e *Evidence) { e.Keys = nil }), "signed by none of the keys"},
		{"one key each", fork(5, 5, func(e *Evidence) {
			e.Received = signed(t, courtText(courtOrigin, other.tree(t, 5)), next)
			e.Keys = append(slices.Clone(e.Keys), next.Key)
		}), "no key signed both"},
		{"a signature that was broken", fork(5, 5, func(e *Evidence) { e.Received = e.Received[:len(e.Received)-8] + "AAAAAA=\n" }), "signed by none of the keys"},
		{"two ledgers", fork(5, 5, func(e *Evidence) {
			e.Received = foreign
			e.Verified = signed(t, courtText(courtOrigin, h.tree(t, 5)), c.ed25519)
		}), "of two ledgers"},
		{"a log's key under another origin", Evidence{Verified: foreign, Received: signed(t, courtText("example.com/other", h.tree(t, 5)), c.log), Keys: c.everyone}, "no key signed both"},
		{"an extension line", Evidence{Verified: signed(t, courtText(courtOrigin, h.tree(t, 5)), c.log), Received: signed(t, courtText(courtOrigin, h.tree(t, 5))+"extension\n", c.log), Keys: c.everyone}, "nothing in it contradicts"},
		{"one checkpoint", Evidence{Received: signed(t, courtText(courtOrigin, h.tree(t, 5)), c.log), Keys: c.everyone}, "one checkpoint contradicts nothing"},
		{"an empty ledger", Evidence{Verified: signed(t, courtText(courtOrigin, h.tree(t, 0)), c.log), Received: signed(t, courtText(courtOrigin, other.tree(t, 5)), c.log), Keys: c.everyone, Root: h.tree(t, 5).Hash.String()}, "nothing in it contradicts"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if j := judge(t, x.e); len(j.Convicted) > 0 || !strings.Contains(j.Suspicion, x.want) {
				t.Errorf("%+v, want %q", j, x.want)
			}
		})
	}
}

// A key is known by all of it, not by its name.
func TestNamesakesAreNotConvicted(t *testing.T) {
	c := newCourt(t)
	namesake := courtKey(t)
	one, other := newHistory(t, 5, 5), newHistory(t, 5, 3)
	e := forkEvidence(t, one, other, 5, 5, namesake)
	e.Keys = []string{c.log.Key, namesake.Key}
	if j := judge(t, e); !slices.Equal(names(j.Convicted), []string{namesake.Key}) {
		t.Errorf("%+v", j)
	}
}
