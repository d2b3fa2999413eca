package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// blocksOf is a node with so many blocks, one a minute, of two repositories in turn.
func blocksOf(t *testing.T, size *atomic.Int64) *Client {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		below := size.Load()
		if before := r.URL.Query().Get("before"); before != "" {
			below, _ = strconv.ParseInt(before, 10, 64)
		}
		n := ledger.MaxArtifacts
		if s := r.URL.Query().Get("n"); s != "" {
			n, _ = strconv.Atoi(s)
		}
		page := []ledger.BlockJSON{}
		for h := below - 1; h >= 0 && len(page) < n; h-- {
			name := []string{"docker.io/library/alpine:1", "docker.io/org/tool:1"}[h%2]
			d := digest.FromString(strconv.FormatInt(h, 10))
			e, err := (&ledger.AddArtifact{
				Type: ledger.TypeAddArtifact, Version: 1, Artifact: name, Digest: d, MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1,
				Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: d, Config: d, Size: 1}}, Pieces: d, Upstream: "registry.example", Time: start.Add(time.Duration(h) * time.Minute),
			}).Marshal()
			if err != nil {
				t.Error(err)
			}
			page = append(page, ledger.BlockJSON{Height: h, Entry: string(e)})
		}
		_ = json.NewEncoder(w).Encode(page)
	}))
	t.Cleanup(s.Close)
	return New(s.URL, http.DefaultClient)
}

func heights(blocks []ledger.BlockJSON) (out []int64) {
	for _, b := range blocks {
		out = append(out, b.Height)
	}
	return out
}

func TestRecent(t *testing.T) {
	var size atomic.Int64
	size.Store(1001)
	c := blocksOf(t, &size)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		filter Filter
		limit  int
		want   []int64 // the first, the last, and how many
	}{
		"the newest":         {Filter{}, 3, []int64{1000, 998, 3}},
		"all":                {Filter{}, -1, []int64{1000, 0, 1001}},
		"since":              {Filter{Since: start.Add(900 * time.Minute)}, -1, []int64{1000, 900, 101}},
		"of a repository":    {Filter{Repository: "docker.io/org/*"}, 200, []int64{999, 601, 200}},
		"of a platform":      {Filter{Platform: "linux/amd64"}, 1, []int64{1000, 1000, 1}},
		"of no platform":     {Filter{Platform: "linux/arm64"}, -1, nil},
		"since, and limited": {Filter{Since: start.Add(10 * time.Minute), Repository: "docker.io/library/*"}, 10, []int64{1000, 982, 10}},
	} {
		got, err := c.Recent(t.Context(), tc.filter, tc.limit)
		if err != nil {
			t.Fatal(err)
		}
		var is []int64
		if h := heights(got); len(h) > 0 {
			is = []int64{h[0], h[len(h)-1], int64(len(h))}
		}
		if !slices.Equal(is, tc.want) {
			t.Errorf("%s: %v, want %v", name, is, tc.want)
		}
	}
}

// Who follows gets each block once, in order, however many come between two questions.
func TestAfter(t *testing.T) {
	var size atomic.Int64
	size.Store(10)
	c := blocksOf(t, &size)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []int64
	err := c.After(ctx, Filter{Repository: "docker.io/library/*"}, 8, time.Millisecond, func(blocks []ledger.BlockJSON) error {
		got = append(got, heights(blocks)...)
		switch size.Load() {
		case 10:
			size.Store(400)
		case 400:
			size.Store(401)
		default:
			stop()
		}
		return nil
	})
	var want []int64
	for h := int64(8); h <= 400; h += 2 {
		want = append(want, h)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
	}
}
