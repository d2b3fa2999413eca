package index

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// artifact is an entry whose digests all differ.
func artifact(image string) *ledger.AddArtifact {
	of := digest.FromString
	return &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: image,
		Digest: of("x"), MediaType: "application/vnd.oci.image.index.v1+json", Size: 100,
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: of("m"), Config: of("c"), Size: 7}},
		Pieces:    of("p"), Upstream: "registry.example", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// entries are one of each form of AddArtifact: version 1, and version 2 with and
// without its registry.
func entries(f *testing.F) (out [][]byte) {
	f.Helper()
	for _, form := range []func(e *ledger.AddArtifact){
		func(*ledger.AddArtifact) {},
		func(e *ledger.AddArtifact) { e.Version, e.SeenAt = 2, e.Time.Add(-time.Hour) },
		func(e *ledger.AddArtifact) { e.Version, e.Pinned = 2, true },
	} {
		e := artifact("docker.io/library/alpine:3.20")
		form(e)
		data, err := e.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

// What is an entry of a known type is indexed.
func FuzzIndexedEntries(f *testing.F) {
	for _, seed := range entries(f) {
		f.Add(seed)
	}
	f.Add([]byte(`{"type":"RevokeArtifact","version":1,"artifact":"docker.io/library/a:1","digest":"sha256:` + strings.Repeat("0", 64) + `","block":1,"reason":"bad","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RevokeArtifact","version":2,"repository":"docker.io/library/a","digest":"sha256:` + strings.Repeat("0", 64) + `","reason":"bad","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RestoreArtifact","version":1,"repository":"docker.io/library/a","digest":"sha256:` + strings.Repeat("0", 64) + `","block":1,"reason":"good","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"type":"RotateKey","version":1,"previous":"a+1+b","key":"a+2+c","time":"2026-01-02T03:04:05Z"}`))
	f.Add(bytes.Repeat([]byte("["), 10_000))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := ledger.ReadEntry(0, data); err != nil {
			return
		}
		b := new(Batch)
		b.entry(data, 0)
		if len(b.records) == 0 || len(b.Unread) > 0 {
			t.Errorf("%q parses, and is not indexed", data)
		}
	})
}

// The quick reader of entries and the strict one agree.
func FuzzScanEntry(f *testing.F) {
	seed := entries(f)[0]
	f.Add(seed)
	f.Add(bytes.Replace(seed, []byte("registry.example"), []byte(`reg\"istry`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := new(Batch)
		b.entry(data, 7)
		strict, err := ledger.ParseEntry(data)
		if err != nil {
			return // such a block is found, and refused when it is read
		}
		want := []digest.Digest{strict.Digest, strict.Pieces}
		for _, p := range strict.Platforms {
			want = append(want, p.Digest, p.Config)
		}
		keys := map[record]bool{makeRecord(ImageKey([]byte(strict.Artifact)), 7): true}
		for _, d := range want {
			k, _ := DigestKey([]byte(d))
			keys[makeRecord(k, 7)] = true
		}
		for _, r := range b.records {
			if !keys[r] {
				t.Errorf("%q: record %x is of nothing that it names", data, r)
			}
		}
		if len(b.records) != len(keys) || string(b.names) != strict.Artifact+"\n" {
			t.Errorf("%q: %d records, want %d; names %q", data, len(b.records), len(keys), b.names)
		}
	})
}
