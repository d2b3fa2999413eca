package tlogmirror_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// Whatever is sent to a cosigner, its record stays on the log's one history, and it
// answers by a code of the specifications.
func FuzzSubmission(f *testing.F) {
	const at, size = 300, 700
	l := newSpecLog(origin, "fuzz", size)
	other := l.fork(100)
	f.Add("/add-checkpoint", []byte(l.addCheckpointBody(at, size)), false)
	f.Add("/add-checkpoint", []byte(other.addCheckpointBody(at, size)), false)
	f.Add("/sign-subtree", []byte("subtree 0 300\n"+specLines([]specHash{l.mth(0, 300)})+"\n"+l.checkpoint(at)), false)
	f.Add("/add-entries", l.uploadBody(at, size, nil, 9), false)
	f.Add("/add-entries", other.uploadBody(at, size, nil, 9), false)
	f.Add("/add-entries", specGzip(l.uploadBody(0, at, []byte("ticket"), 1)), true)
	f.Fuzz(func(t *testing.T, path string, body []byte, zip bool) {
		if path != "/add-checkpoint" && path != "/sign-subtree" {
			path = "/add-entries"
		}
		c, m := openAt(t, filepath.Join(t.TempDir(), "cosigner"), quorum.Mirror, l, time.Now)
		defer c.Close()
		send := func(path string, body []byte, zip bool) int {
			q := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
			q.Header.Set("Content-Type", "application/octet-stream")
			if zip {
				q.Header.Set("Content-Encoding", "gzip")
			}
			w := httptest.NewRecorder()
			c.Submission().ServeHTTP(w, q)
			return w.Code
		}
		for _, known := range [][]byte{[]byte(l.addCheckpointBody(0, at)), l.uploadBody(0, at, nil, 9), []byte(l.addCheckpointBody(at, size))} {
			where := "/add-checkpoint"
			if !bytes.HasPrefix(known, []byte("old ")) {
				where = "/add-entries"
			}
			if code := send(where, known, false); code != http.StatusOK {
				t.Fatalf("%s: %d", where, code)
			}
		}
		switch code := send(path, body, zip); code {
		case 200, 202, 400, 403, 404, 409, 413, 422:
		default:
			t.Fatalf("%s answers %d", path, code)
		}
		s := m.State()
		for _, tree := range []quorum.Tree{s.Pending.Tree, s.Log.Tree} {
			if tree.Size != at && tree.Size != size || tree.Root != l.mth(0, int(tree.Size)) {
				t.Fatalf("%s brought the record to %v", path, tree)
			}
		}
		// What is right goes on from there.
		if code := send("/add-entries", l.uploadBody(at, size, nil, 9), false); code != http.StatusOK {
			t.Fatalf("after %s: %d", path, code)
		}
	})
}
