package tlogmirror_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/internal/tlogmirror"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/server"
)

const origin = "log.example/one"

var octets = map[string]string{"Content-Type": "application/octet-stream"}

// zipped is for bodies that are compressed.
var zipped = map[string]string{"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}

// rig is a cosigner on loopback, as the node serves one.
type rig struct {
	t        *testing.T
	path     string
	role     quorum.Role
	cosigner *tlogmirror.Cosigner
	member   *tlogmirror.Member
	clock    atomic.Int64 // seconds
	// current is cosigner for the server's goroutines: a test starts others.
	current atomic.Pointer[tlogmirror.Cosigner]

	submission, monitoring string
}

func newRig(t *testing.T, role quorum.Role, l *specLog) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "cosigner"), role: role}
	r.clock.Store(1_800_000_000)
	r.open(l)
	mux := http.NewServeMux()
	mux.Handle("/in/", http.StripPrefix("/in", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.current.Load().Submission().ServeHTTP(w, q) })))
	mux.Handle("/out/", http.StripPrefix("/out", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.current.Load().Monitoring().ServeHTTP(w, q) })))
	s := httptest.NewUnstartedServer(nil)
	s.Config = server.New(server.Pace(mux))
	s.Start()
	t.Cleanup(s.Close)
	r.submission, r.monitoring = s.URL+"/in", s.URL+"/out"
	return r
}

func (r *rig) open(l *specLog) {
	r.t.Helper()
	r.cosigner, r.member = openAt(r.t, r.path, r.role, l, func() time.Time { return time.Unix(r.clock.Load(), 0) })
	c := r.cosigner
	r.current.Store(c)
	r.t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
}

func openAt(t *testing.T, path string, role quorum.Role, l *specLog, now func() time.Time) (*tlogmirror.Cosigner, *tlogmirror.Member) {
	t.Helper()
	c, err := tlogmirror.Open(path, options(t, role, now))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Add(t.Context(), logOf(t, l))
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

func options(tb testing.TB, role quorum.Role, now func() time.Time) tlogmirror.Options {
	tb.Helper()
	return tlogmirror.Options{Name: string(role) + ".example/one", Role: role, Now: now, Log: slog.New(slog.NewTextHandler(tb.Output(), nil))}
}

func logOf(tb testing.TB, l *specLog) tlogmirror.Log {
	tb.Helper()
	v, err := ledger.NewVerifier(l.vkey())
	if err != nil {
		tb.Fatal(err)
	}
	return tlogmirror.Log{Origin: l.origin, Keys: v}
}

// restart ends the cosigner and opens it again.
func (r *rig) restart(l *specLog) {
	r.t.Helper()
	if err := r.cosigner.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open(l)
}

func (r *rig) post(path string, body []byte, header map[string]string) answer {
	r.t.Helper()
	a, err := specPost(http.DefaultClient, r.submission+path, bytes.NewReader(body), header)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) addCheckpoint(l *specLog, old, n int) answer {
	r.t.Helper()
	return r.post("/add-checkpoint", []byte(l.addCheckpointBody(old, n)), nil)
}

// mustAdd has a checkpoint pending, and at a mirror all its entries uploaded.
func (r *rig) mustAdd(l *specLog, old, n int) (lines string) {
	r.t.Helper()
	a := r.addCheckpoint(l, old, n)
	if a.code == http.StatusOK && r.role == quorum.Mirror {
		a = r.post("/add-entries", l.uploadBody(old, n, nil, 1<<20), octets)
	}
	if a.code != http.StatusOK {
		r.t.Fatalf("%d to %d: %d %s", old, n, a.code, a.body)
	}
	return a.body
}

// verbatim leaves compression to the test.
var verbatim = &http.Transport{DisableCompression: true}

func (r *rig) get(path string, header map[string]string) answer {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.monitoring+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := verbatim.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// want fails the test unless an answer has a status code and says something.
func want(t *testing.T, what string, a answer, code int, says string) {
	t.Helper()
	if a.code != code || !strings.Contains(a.body, says) {
		t.Errorf("%s: %d %q, want %d with %q", what, a.code, a.body, code, says)
	}
}
