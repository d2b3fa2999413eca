package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// What keeps a question from an answer is told, with what to do.
func TestQuestionsSayWhatWasWrong(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc // nil: nobody answers
		says   string
		is     error
	}{
		"nobody":     {nil, "asking the node", ledger.ErrSilent},
		"refused":    {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no checkpoint yet", http.StatusNotFound) }, "the node answered 404 Not Found: no checkpoint yet", ledger.ErrNoAnswer},
		"ambiguous":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "give more digits", http.StatusConflict) }, "give more digits", ledger.ErrNoAnswer},
		"not a node": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "give the URL of a node's open port", nil},
		"no end":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, endless{}, maxAnswer+2) }, "more bytes than 16777216", errTooLarge},
		"another coding": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "x")
		}, `the encoding "br"`, ledger.ErrNoAnswer},
	} {
		url := gone.URL
		if tc.answer != nil {
			s := httptest.NewServer(tc.answer)
			defer s.Close()
			url = s.URL
		}
		_, err := New(url+"/", http.DefaultClient).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.says) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v, want %q and %v", name, err, tc.says, tc.is)
		}
	}
}

// endless is spaces.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// A node's path may be below another one's: the API server's proxy.
func TestQuestionsKeepTheirPrefix(t *testing.T) {
	var asked string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.String()
		_, _ = io.WriteString(w, "[]")
	}))
	defer s.Close()
	node := New(s.URL+"/api/v1/namespaces/a/pods/b:8080/proxy", http.DefaultClient)
	if _, err := node.Blocks(t.Context(), Query{Image: "docker.io/library/alpine:3.20", Limit: 1, Before: 7}); err != nil {
		t.Fatal(err)
	}
	if want := "GET /api/v1/namespaces/a/pods/b:8080/proxy/api/v1/artifacts?before=7&image=docker.io%2Flibrary%2Falpine%3A3.20&n=1"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
}
