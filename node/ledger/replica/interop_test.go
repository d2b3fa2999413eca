package replica

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Public tools alone read and verify the whole ledger over HTTP: torchwood's
// client, and x/mod's tlog.
func TestInteroperation(t *testing.T) {
	t.Parallel()
	p, _ := manyBlocks(t)
	p.open(t)
	s := httptest.NewServer(p.Handler())
	defer s.Close()

	verifier, err := note.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	fetcher, err := torchwood.NewTileFetcher(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := fetcher.ReadEndpoint(t.Context(), "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(verifier.Name()), torchwood.SingleVerifierPolicy(verifier))
	checkpoint, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		t.Fatal(err)
	}
	if checkpoint.N != p.Size() {
		t.Fatalf("a checkpoint of %d blocks, want %d", checkpoint.N, p.Size())
	}
	seen := int64(0)
	for i, entry := range client.Entries(t.Context(), checkpoint.Tree, 0) {
		if i != seen {
			t.Fatalf("entry %d, want %d", i, seen)
		}
		seen++
		// The same entry by the proof that the node makes, checked by x/mod's tlog and by torchwood.
		if i%97 != 0 {
			continue
		}
		proof, err := tlog.ProveRecord(checkpoint.N, i, torchwood.TileHashReaderWithContext(t.Context(), checkpoint.Tree, fetcher))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, checkpoint.N, checkpoint.Hash, i, tlog.RecordHash(entry)); err != nil {
			t.Error(err)
		}
		var block ledger.BlockJSON
		mustGet(t, fmt.Sprintf("%s/api/v1/blocks/%d", s.URL, i), &block)
		if block.Entry != string(entry) {
			t.Errorf("block %d: %q by the API, %q in its bundle", i, block.Entry, entry)
		}
		if err := torchwood.VerifyProof(policy, tlog.RecordHash(entry), []byte(block.Proof)); err != nil {
			t.Errorf("block %d: %v", i, err)
		}
	}
	if err := client.Err(); err != nil {
		t.Fatal(err)
	}
	// The client leaves out a partial tile at the end, because it would have to fetch
	// it again.
	if want := checkpoint.N / torchwood.TileWidth * torchwood.TileWidth; seen < want {
		t.Errorf("%d entries were read, want %d", seen, want)
	}
}

func mustGet(t *testing.T, url string, out any) http.Header {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", url, resp.Status, data, err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	return resp.Header
}

func TestPages(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	for i := range 7 {
		p.mustAppend(t, alpine, fmt.Sprint(i))
	}
	s := httptest.NewServer(p.Handler())
	defer s.Close()
	var heights []int64
	for next := "/api/v1/artifacts?image=alpine%3A3.20&n=3"; next != ""; {
		var page []ledger.BlockJSON
		h := mustGet(t, s.URL+next, &page)
		for _, b := range page {
			heights = append(heights, b.Height)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(h.Get("Link"), "<"), ">")
	}
	if diff := cmp.Diff([]int64{6, 5, 4, 3, 2, 1, 0}, heights); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"n=0", "n=101", "n=x", "before=-1", "before=x", "digest=sha256:00", "image=UPPER", ""} {
		query := "/api/v1/artifacts?" + bad
		if strings.HasPrefix(bad, "n=") || strings.HasPrefix(bad, "before") {
			query += "&image=alpine"
		}
		resp, err := http.Get(s.URL + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s, want 400", query, resp.Status)
		}
	}
}

// An answer that a client has already is not sent again, until the ledger grows.
func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	s := httptest.NewServer(p.Handler())
	defer s.Close()
	for _, path := range []string{"/api/v1/artifacts?image=alpine:3.20", "/api/v1/blocks/0"} {
		var out any
		tag := mustGet(t, s.URL+path, &out).Get("ETag")
		ask := func() int {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("If-None-Match", tag)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		if got := ask(); got != http.StatusNotModified {
			t.Errorf("%s: %d, want 304", path, got)
		}
		p.mustAppend(t, alpine, "for "+path)
		if got := ask(); got != http.StatusOK {
			t.Errorf("%s after the ledger has grown: %d, want 200", path, got)
		}
	}
}
