package tlogmirror_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// stalled begins an upload whose body does not go on until it is released. When it
// returns the mirror has begun to read the body, or has answered.
func stalled(t *testing.T, r *rig, begin []byte) (release func(rest []byte), ended <-chan answer) {
	t.Helper()
	out, in := io.Pipe()
	t.Cleanup(func() { _ = in.Close() })
	begun := make(chan struct{})
	started := sync.OnceFunc(func() { close(begun) })
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: started})
	req, err := http.NewRequestWithContext(trace, http.MethodPost, r.submission+"/add-entries", io.MultiReader(bytes.NewReader(begin), out))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue")
	answers := make(chan answer, 1)
	go func() {
		defer started()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answers <- answer{body: err.Error()}
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body) // the code says enough
		answers <- answer{resp.StatusCode, resp.Header, string(body)}
	}()
	<-begun
	return func(rest []byte) {
		_, _ = in.Write(rest) // it may be refused by then
		_ = in.Close()
	}, answers
}

// Errors that the header alone decides come before the rest of the body.
func TestErrorsDoNotWaitForTheBody(t *testing.T) {
	t.Parallel()
	l, unknown := newSpecLog(origin, "early", 600), newSpecLog("log.example/unknown", "early", 9)
	r := newRig(t, quorum.Mirror, l)
	for name, tt := range map[string]struct {
		header []byte
		code   int
	}{
		"an unknown log":  {unknown.uploadHeader(0, 9, nil), 404},
		"nothing pending": {l.uploadHeader(0, 600, nil), 422},
	} {
		_, ended := stalled(t, r, tt.header)
		wantSoon(t, name, ended, tt.code)
	}
	r.addCheckpoint(l, 0, 600)
	_, ended := stalled(t, r, l.uploadHeader(1, 600, nil))
	wantSoon(t, "a start that is too high", ended, 409)
	body := l.uploadBody(0, 600, nil, 1)
	body[len(l.uploadHeader(0, 600, nil))+5] ^= 1
	_, ended = stalled(t, r, body)
	wantSoon(t, "a package that is wrong", ended, 422)
}

func wantSoon(t *testing.T, what string, ended <-chan answer, code int) {
	t.Helper()
	select {
	case a := <-ended:
		if a.code != code {
			t.Errorf("%s: %d %s, want %d", what, a.code, a.body, code)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s: no answer while the body is open", what)
	}
}

// One client that pauses its uploads does not have more than its share of them, and
// gives it back.
func TestUploadsAreBounded(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "bounded uploads", 600)
	r := newRig(t, quorum.Mirror, l)
	r.addCheckpoint(l, 0, 600)
	header, whole := l.uploadHeader(0, 600, nil), l.uploadBody(0, 600, nil, 9)
	release1, ended1 := stalled(t, r, header)
	release2, ended2 := stalled(t, r, header)
	a := r.post("/add-entries", whole, octets)
	want(t, "a third", a, 503, "later")
	if a.header.Get("Retry-After") == "" {
		t.Error("a client that is refused does not hear when to come back")
	}
	release1(whole[len(header):])
	wantSoon(t, "the first", ended1, 200)
	release2(whole[len(header):])
	wantSoon(t, "the second", ended2, 200)
	r.mustUpload(l, 600, 600)
}
