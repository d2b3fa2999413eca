package ledger

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func entrySeeds(f *testing.F) {
	f.Helper()
	seed, err := artifact(alpine, "x").Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	for _, e := range []*AddArtifact{seenAt(artifact(alpine, "x")), pinned(artifact(alpine, "x"))} {
		seed, err := e.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"type":"RevokeArtifact","version":1,"artifact":"docker.io/library/a:1","digest":"sha256:` + strings.Repeat("0", 64) + `","block":1,"reason":"bad","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RevokeArtifact","version":2,"repository":"docker.io/library/a","digest":"sha256:` + strings.Repeat("0", 64) + `","reason":"bad","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RestoreArtifact","version":1,"repository":"docker.io/library/a","digest":"sha256:` + strings.Repeat("0", 64) + `","block":1,"reason":"good","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RotateKey","version":1,"previous":"a+1+b","key":"a+2+c","time":"2026-01-02T03:04:05Z"}`))
	f.Add(bytes.Repeat([]byte("["), 10_000))
}

// What parses is canonical: encoding it again gives the same bytes.
func FuzzParseEntry(f *testing.F) {
	entrySeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if quick := new(AddArtifact); quick.decode(data) {
			slow := new(AddArtifact)
			if err := parse(data, TypeAddArtifact, addArtifactVersions, slow); (err == nil) != (quick.validate() == nil) || err == nil && !reflect.DeepEqual(quick, slow) {
				t.Errorf("%q is read as %+v, and by the JSON parser as %+v, %v", data, quick, slow, err)
			}
		}
		var e interface{ Marshal() ([]byte, error) }
		if a, err := ParseEntry(data); err == nil {
			e = a
		} else if r, err := ParseRevocation(data); err == nil {
			e = r
		} else if r, err := ParseWithdrawal(data); err == nil {
			e = r
		} else if r, err := ParseRestoration(data); err == nil {
			e = r
		} else if r, err := ParseRotation(data); err == nil {
			e = r
		} else {
			return
		}
		again, err := e.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q parses, but encodes as %q, %v", data, again, err)
		}
	})
}

// What names an image is canonical, or becomes so in one step.
func FuzzParseImage(f *testing.F) {
	for _, s := range []string{"alpine", "alpine:3.20", "localhost:5000/a/b:c", "a@sha256:00", "../../etc:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		image, err := ParseImage(s)
		if err != nil {
			return
		}
		again, err := ParseImage(image.String())
		if err != nil || again != image {
			t.Errorf("%q is %+v, and its canonical name %+v, %v", s, image, again, err)
		}
	})
}

// Nothing but what the key signed is accepted, and nothing crashes.
func FuzzVerify(f *testing.F) {
	skey, vkey, err := GenerateKey("ledger.example/fuzz")
	if err != nil {
		f.Fatal(err)
	}
	signer, _, err := NewSigner(skey)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := NewVerifier(vkey)
	if err != nil {
		f.Fatal(err)
	}
	const text = "ledger.example/fuzz\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed, []byte("{}"))
	f.Add(append([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\n"), signed...), []byte("{}"))
	f.Fuzz(func(t *testing.T, data, entry []byte) {
		if c, err := VerifyCheckpoint(verifier, data); err == nil && c.Tree.N != 1 {
			t.Errorf("accepted a checkpoint that was not signed: %q", data)
		}
		if b, err := VerifyBlock(verifier, entry, data); err == nil {
			t.Errorf("accepted a block of a ledger that has none: %+v", b)
		}
	})
}

// What is found canonical quickly is so to the full parser.
func FuzzCanonicalName(f *testing.F) {
	f.Add("docker.io/library/alpine:3.20")
	f.Add("docker.io/a__b/c-d.e:_A.1-b")
	f.Fuzz(func(t *testing.T, name string) {
		if !isCanonical(name) {
			return
		}
		if image, err := ParseImage(name); err != nil || image.String() != name {
			t.Errorf("%q: %q, %v", name, image, err)
		}
	})
}
