package ledger

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What parses is canonical: encoding it again gives the same bytes.
func FuzzParseEntry(f *testing.F) {
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
		b := new(batch)
		b.entry(data, 0)
		if len(b.records) == 0 || len(b.unread) > 0 {
			t.Errorf("%q parses, and is not indexed", data)
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

// A bundle or a rotation's proof from a peer never crashes the reader, and
// proves nothing.
func FuzzFromPeers(f *testing.F) {
	v, err := NewVerifier(fuzzKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x00\x01a\x00\x02bc"), "c2sp.org/tlog-proof@v1\nindex 0\n\n")
	f.Fuzz(func(t *testing.T, bundle []byte, proof string) {
		for _, width := range []int{1, 2, torchwood.TileWidth} {
			tile := tlog.Tile{H: torchwood.TileHeight, L: -1, W: width}
			if leaves, err := entryHashes(tile, bundle); err == nil && len(leaves) != width*tlog.HashSize {
				t.Errorf("%d bytes of hashes of %d entries", len(leaves), width)
			}
			if cut, err := narrow(bundle, tile); err == nil && !bytes.HasPrefix(bundle, cut) {
				t.Errorf("%q is no beginning of %q", cut, bundle)
			}
		}
		if again := v.WithAll([]Rotation{{Entry: string(bundle), Proof: proof}}); again != v {
			t.Errorf("a rotation was believed that nobody signed: %q", proof)
		}
	})
}

// Requests of anyone are answered, or refused with a status that says so.
func FuzzRequests(f *testing.F) {
	p, err := OpenFollower(f.Context(), f.TempDir(), fuzzKey(f), quiet())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = p.Close() })
	handler := p.Handler()
	for _, path := range []string{"/checkpoint", "/tile/0/000.p/7", "/tile/entries/x001/000", "/api/v1/blocks/1", "/api/v1/entries/0?n=1024",
		"/api/v1/artifacts?image=alpine&n=5&before=7", "/api/v1/artifacts?digest=sha256:00", "/tile/../checkpoint"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse("http://node/" + strings.TrimPrefix(path, "/"))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: u, Host: "node", Header: http.Header{}})
		if w.Code >= 500 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	})
}

func fuzzKey(f *testing.F) string {
	f.Helper()
	_, vkey, err := GenerateKey("ledger.example/fuzz")
	if err != nil {
		f.Fatal(err)
	}
	return vkey
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
