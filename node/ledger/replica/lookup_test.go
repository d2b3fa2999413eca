package replica

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A look-up prefers the repository that was asked for, in it what stands, and of that
// the tag, however many newer blocks name the digest.
func TestLookupPicksTheBlockThatSaysMost(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	ofTag := p.mustAppend(t, "docker.io/library/alpine:3.20", "shared")
	withdrawn := p.mustAppend(t, "docker.io/library/alpine:3.19", "older")
	moved := p.mustAppend(t, "docker.io/library/alpine:3.19", "newer")
	var others errgroup.Group
	for i := range namingPage + 1 {
		others.Go(func() error {
			_, err := p.Append(t.Context(), artifact("docker.io/library/base:"+strings.Repeat("x", i+1), "shared"))
			return err
		})
	}
	if err := others.Wait(); err != nil {
		t.Fatal(err)
	}
	elsewhere := p.Size() - 1
	first, err := p.Latest(t.Context(), mustParse(t, "base:x"))
	if err != nil {
		t.Fatal(err)
	}
	p.mustWithdraw(t, "older")
	stands := p.mustAppend(t, "docker.io/library/other:1", "older")
	v, err := ledger.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	shared, older := digest.FromString("shared").String(), digest.FromString("older").String()
	for question, want := range map[string]struct {
		block, tag int64 // -1: none
		repository bool
	}{
		"alpine:3.20@" + shared: {ofTag, -1, true}, // older than a page of others
		"alpine:3.20":           {-1, ofTag, true},
		"base:x@" + shared:      {first.Height, -1, true},
		"base@" + shared:        {elsewhere, -1, true},
		shared:                  {elsewhere, -1, false},
		"nginx:1@" + shared:     {elsewhere, -1, false},
		"alpine:3.19@" + older:  {withdrawn, moved, true}, // it stands in another repository alone
		"other:1@" + older:      {stands, -1, true},
		older:                   {stands, -1, false},
		"alpine:none":           {-1, -1, true},
		"nginx:1":               {-1, -1, false},
	} {
		q, err := ledger.ParseReference(question)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Lookup(t.Context(), []*ledger.Reference{q})
		if err != nil || len(got.Answers) != 1 {
			t.Fatalf("%s: %+v, %v", question, got, err)
		}
		head, err := ledger.VerifyCheckpoint(v, []byte(got.Checkpoint))
		if err != nil {
			t.Fatal(err)
		}
		a := got.Answers[0]
		heights := []int64{-1, -1}
		for i, b := range []*ledger.BlockJSON{a.Block, a.Tag} {
			if b == nil {
				continue
			}
			heights[i] = b.Height
			if err := head.Includes(b.Height, []byte(b.Entry), [][]string{a.Inclusion, a.TagInclusion}[i]); err != nil {
				t.Errorf("%s: %v", question, err)
			}
			if head.Includes(b.Height+1, []byte(b.Entry), [][]string{a.Inclusion, a.TagInclusion}[i]) == nil {
				t.Errorf("%s: the proof holds for another height too", question)
			}
		}
		if !slices.Equal(heights, []int64{want.block, want.tag}) || a.Repository != want.repository {
			t.Errorf("%s: blocks %v, repository %v, want %+v", question, heights, a.Repository, want)
		}
	}
}

// What cannot be answered is refused with what would do.
func TestLookupIsBounded(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, "docker.io/library/alpine:3.20", "x")
	many := make([]string, ledger.MaxLookup+1)
	for i := range many {
		many[i] = "alpine"
	}
	for says, questions := range map[string][]string{
		"0 questions":          nil,
		"1025 questions":       many,
		"question 2: ":         {"alpine", "two words"},
		"all 64 digits":        {"alpine@sha256:0123456789ab"},
		"names no image: give": {""},
	} {
		answer := httptest.NewRecorder()
		p.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/api/v1/lookup?"+url.Values{"q": questions}.Encode(), nil))
		if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), says) {
			t.Errorf("%q: %d %s", says, answer.Code, answer.Body)
		}
	}
	answer := httptest.NewRecorder()
	newFollower(t, p.vkey).Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/api/v1/lookup?q=alpine", nil))
	if answer.Code != http.StatusNotFound || !strings.Contains(answer.Body.String(), "no checkpoint yet") {
		t.Errorf("without a ledger: %d %s", answer.Code, answer.Body)
	}
}
