package ledger

import (
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// An inclusion proof (c2sp.org/tlog-proof) is read in the one way in which it may be written.
func TestProofsThatAreRefused(t *testing.T) {
	key, other := courtKey(t), courtKey(t)
	h := newHistory(t, 12, 12)
	entry := []byte("block 7")
	hashes, err := tlog.ProveRecord(12, 7, h)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(key.Key)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := signed(t, courtText(courtOrigin, h.tree(t, 12)), key)
	good := string(torchwood.FormatProof(7, hashes, []byte(checkpoint)))
	for _, c := range []struct {
		name, proof string
		want        string // empty if it is accepted
	}{
		{"as it is made", good, ""},
		{"with extra data, which nothing reads", strings.Replace(good, "index", "extra AAAA\nindex", 1), ""},
		{"extra data that is no base64", strings.Replace(good, "index", "extra !\nindex", 1), "invalid extra"},
		{"extra data after the index", strings.Replace(good, "index 7\n", "index 7\nextra AAAA\n", 1), "invalid hash"},
		{"no first line", strings.SplitN(good, "\n", 2)[1], "missing header"},
		{"another first line", strings.Replace(good, "@v1", "@v2", 1), "missing header"},
		{"no index", strings.Replace(good, "index 7\n", "", 1), "expected index line"},
		{"a leading zero", strings.Replace(good, "index 7", "index 07", 1), "without leading zeroes"},
		{"a sign", strings.Replace(good, "index 7", "index +7", 1), "without leading zeroes"},
		{"another index", strings.Replace(good, "index 7", "index 6", 1), "inclusion proof"},
		{"no empty line", strings.Replace(good, "\n\n", "\n", 1), "invalid hash"},
		{"a hash less", strings.Replace(good, EncodeHashes(tlog.TreeProof(hashes))[0]+"\n", "", 1), "inclusion proof"},
		{"a checkpoint of another origin", strings.Replace(good, checkpoint, signed(t, courtText("example.com/other", h.tree(t, 12)), key), 1), "it is of the ledger"},
		{"a checkpoint by another key", strings.Replace(good, checkpoint, signed(t, courtText(courtOrigin, h.tree(t, 12)), other), 1), ErrOtherKey.Error()},
		{"no checkpoint", strings.TrimSuffix(good, checkpoint), "malformed note"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := VerifyInclusion(v, entry, []byte(c.proof))
			switch {
			case c.want == "" && (err != nil || b.Height != 7):
				t.Errorf("%+v, %v", b, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%+v, %v, want %q", b, err, c.want)
			}
		})
	}
	if b, err := VerifyInclusion(v, []byte("block 8"), []byte(good)); err == nil {
		t.Errorf("another block: %+v", b)
	}
}
