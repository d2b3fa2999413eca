package replica

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// altered serves a ledger, and lets a test change its answers.
func altered(t *testing.T, l *Ledger, alter func(path string, body []byte) []byte) *client.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding")
		rec := httptest.NewRecorder()
		l.Handler().ServeHTTP(rec, r)
		body := alter(r.URL.Path, rec.Body.Bytes())
		if rec.Code != http.StatusOK && bytes.Equal(body, rec.Body.Bytes()) {
			w.WriteHeader(rec.Code)
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return client.New(s.URL, http.DefaultClient)
}

// mustRefuse expects a source to be refused with evidence of a kind, and
// the node to go on with what it has verified, also from an honest source.
func mustRefuse(t *testing.T, f *Follower, hostile *client.Client, kind ledger.EvidenceKind, honest *publisher) {
	t.Helper()
	before, had := f.Head()
	if grown, err := f.Sync(t.Context(), hostile); err == nil || grown {
		t.Errorf("the attack succeeded: grown %v, %v", grown, err)
	}
	after, has := f.Head()
	if has != had || after.Tree != before.Tree {
		t.Errorf("the verified ledger has changed: %v, was %v", after.Tree, before.Tree)
	}
	evidence, err := f.Evidence()
	if err != nil {
		t.Fatal(err)
	}
	of := func(e ledger.Evidence) bool { return e.Kind == kind && e.Peer == hostile.String() }
	if i := slices.IndexFunc(evidence, of); i < 0 {
		t.Errorf("no evidence of kind %s against %s", kind, hostile)
	} else if e := evidence[i]; e.Message == "" || e.Received == "" {
		t.Errorf("evidence %+v does not say what and why", e)
	}
	if f.Refused(kind) == 0 {
		t.Errorf("no refusal of kind %s was counted", kind)
	}
	mustFollow(t, f, honest)
}

// mustFollow expects the follower to come to the publisher's head.
func mustFollow(t *testing.T, f *Follower, p *publisher) {
	t.Helper()
	honest := serve(t, p.Ledger)
	if _, err := f.Sync(t.Context(), honest); err != nil {
		t.Errorf("after the attack, an honest source: %v", err)
	}
	if got, _ := f.Head(); got.Tree.N != p.Size() {
		t.Errorf("after the attack, an honest source: %d blocks, want %d", got.Tree.N, p.Size())
	}
}

func TestAlteredBlocksAreRefused(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
	swap := func(b []byte) []byte {
		first, rest, err := torchwood.ReadTileEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		second, rest, err := torchwood.ReadTileEntry(rest)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := torchwood.AppendTileEntry(nil, second)
		out, _ = torchwood.AppendTileEntry(out, first)
		return append(out, rest...)
	}
	for name, alter := range map[string]func(path string, body []byte) []byte{
		"a bit of a bundle": func(path string, b []byte) []byte {
			if strings.Contains(path, "entries") {
				return flip(b)
			}
			return b
		},
		"blocks in another order": func(path string, b []byte) []byte {
			if strings.Contains(path, "entries") {
				return swap(b)
			}
			return b
		},
		"a bundle with one block less": func(path string, b []byte) []byte {
			if strings.Contains(path, "entries") {
				_, rest, _ := torchwood.ReadTileEntry(b)
				return rest
			}
			return b
		},
		"a bundle with one block more": func(path string, b []byte) []byte {
			if strings.Contains(path, "entries") {
				out, _ := torchwood.AppendTileEntry(bytes.Clone(b), []byte("{}"))
				return out
			}
			return b
		},
		"a bit of a hash tile, and of its bundle": func(path string, b []byte) []byte {
			if strings.HasPrefix(path, "/tile/0/") || strings.Contains(path, "entries") {
				return flip(b)
			}
			return b
		},
		"nothing at all": func(path string, b []byte) []byte {
			if path == "/checkpoint" {
				return b
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher(t)
			p.mustAppend(t, alpine, "one")
			f := newFollower(t, p.vkey)
			p.mustAppend(t, alpine, "two")
			// Cold, by tiles; and then little behind, by entries alone.
			mustRefuse(t, f, altered(t, p.Ledger, alter), ledger.EvidenceBadData, p)
			p.mustAppend(t, alpine, "three")
			p.mustAppend(t, alpine, "four")
			mustRefuse(t, f, altered(t, p.Ledger, alter), ledger.EvidenceBadData, p)
		})
	}
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestEndlessAnswersAreCut(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"/checkpoint", "/tile/entries/", "/tile/0/", "/api/v1/entries/", "/api/v1/rotations"} {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s compressed=%t", what, compressed), func(t *testing.T) {
				p := newPublisher(t)
				p.mustAppend(t, alpine, "one")
				f := newFollower(t, p.vkey)
				mustFollow(t, f, p)
				p.mustAppend(t, alpine, "two")
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.HasPrefix(r.URL.Path, what) && (what != "/tile/entries/" || r.URL.Path == "/checkpoint") {
						p.Handler().ServeHTTP(w, r)
						return
					}
					out := io.Writer(w)
					if compressed {
						w.Header().Set("Content-Encoding", "gzip")
						zw := gzip.NewWriter(w)
						defer zw.Close()
						out = zw
					}
					_, _ = io.Copy(out, io.LimitReader(endless{}, 1<<30)) // or until the client has enough
				}))
				defer s.Close()
				before := f.Size()
				_, err := f.Sync(t.Context(), client.New(s.URL, http.DefaultClient))
				refused := f.Refused(ledger.EvidenceBadData) + f.Refused(ledger.EvidenceBadSignature)
				// Where the same data comes another way, the endless answer does no harm.
				if other := what == "/api/v1/entries/" || what == "/api/v1/rotations" || what == "/tile/0/"; !other && (err == nil || f.Size() != before) {
					t.Errorf("%d blocks, were %d, %v; refused %d", f.Size(), before, err, refused)
				}
				mustFollow(t, f, p)
			})
		}
	}
}

func TestSlowSourceIsGivenUp(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	f := newFollower(t, p.vkey)
	for _, slow := range []string{"/checkpoint", "/tile/"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, slow) {
				p.Handler().ServeHTTP(w, r)
				return
			}
			for { // a byte now and then, as long as the client reads
				if _, err := w.Write([]byte("x")); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}))
		defer s.Close()
		source := client.New(s.URL, &http.Client{Timeout: 100 * time.Millisecond})
		if _, err := f.Sync(t.Context(), source); !errors.Is(err, ledger.ErrNoAnswer) {
			t.Errorf("%s a byte at a time: %v, want it given up", slow, err)
		}
	}
	mustFollow(t, f, p)
}

// What a publisher with a broken or hostile program signs is on the ledger; it
// says nothing to us and stops nothing.
func TestHostileEntriesStopNothing(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	add := `{"type":"AddArtifact","version":1,"artifact":`
	for _, data := range []string{
		strings.Repeat("[", 60_000),
		strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
		add + `"` + strings.Repeat("a", 60_000) + `"}`,
		add + "\"\xff\xfe\"}",
		add + `"docker.io/library/alpine:3.20","digest":"sha256:` + strings.Repeat("0", 64) + `"}`,
		`{"type":"AddArtifact","version":1e999}`,
		`{"type":"RevokeArtifact","version":1,"block":-1}`,
		`{"type":"RotateKey","version":1,"previous":"x","key":"y","time":"z"}`,
		`{"type":"FromTheFuture","version":7}`,
		"\x00\x01\x02",
		"",
	} {
		if _, err := p.append(t.Context(), "hostile", []byte(data), func() (*ledger.Entry, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	p.mustAppend(t, alpine, "good")
	f := newFollower(t, p.vkey)
	mustFollow(t, f, p)
	image, _ := ledger.ParseImage(alpine)
	history, err := f.History(t.Context(), image, 10)
	if err != nil || len(history) != 1 || history[0].Height != p.Size()-1 {
		t.Errorf("history %v, %v, want the good block alone", history, err)
	}
	for height := range p.Size() {
		e, proof, err := f.Block(t.Context(), height)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.VerifyInclusion(f.now().trust.newest, e.Data, proof); err != nil {
			t.Errorf("block %d: %v", height, err)
		}
	}
	// And it is served on.
	second := newFollower(t, p.vkey)
	if _, err := second.Sync(t.Context(), serve(t, f.Ledger)); err != nil || second.Size() != p.Size() {
		t.Errorf("a copy of the copy: %d blocks, %v", second.Size(), err)
	}
}
