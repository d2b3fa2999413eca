package tlogmirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/killpoint"
	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/internal/tlogmirror"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// forkAt is where the two histories of the crash tests part.
const forkAt = 100

func TestMain(m *testing.M) {
	killpoint.Main(m, func(args []string) error {
		return bring(args[0], quorum.Role(args[1]), history(args[2]))
	})
}

// history is one of the two that one key has signed.
func history(name string) *specLog {
	l := newSpecLog(origin, "crash", 700)
	if name == "other" {
		return l.fork(forkAt)
	}
	return l
}

// bring opens a cosigner and does all that brings it to a history's end, from wherever
// it is. Each cosignature that it gets out of it is noted beside its folder.
func bring(path string, role quorum.Role, l *specLog) error {
	v, err := ledger.NewVerifier(l.vkey())
	if err != nil {
		return err
	}
	o := tlogmirror.Options{Name: string(role) + ".example/one", Role: role, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	c, err := tlogmirror.Open(path, o)
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := c.Add(context.Background(), tlogmirror.Log{Origin: l.origin, Keys: v})
	if err != nil {
		return err
	}
	submit := func(path, body string) *httptest.ResponseRecorder {
		q := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		q.Header.Set("Content-Type", "application/octet-stream")
		w := httptest.NewRecorder()
		c.Submission().ServeHTTP(w, q)
		return w
	}
	for _, size := range []int{300, 700} {
		old := int(m.State().Pending.Tree.Size)
		if old > size {
			continue
		}
		a := submit("/add-checkpoint", l.addCheckpointBody(old, size))
		if a.Code != http.StatusOK {
			return refusedError(a.Body.String())
		}
		if err := release(path, c.Keys(), size, a.Body.String()); err != nil {
			return err
		}
		if role == quorum.Witness {
			continue
		}
		// In two prefixes: from what is mirrored or was left by a crash.
		next := int(m.State().Log.Tree.Size)
		for _, packages := range []int{1, 99} {
			if a = submit("/add-entries", string(l.uploadBody(next, size, nil, packages))); a.Code == http.StatusAccepted {
				next = min(size, (next/256+1)*256)
			}
		}
		if a.Code != http.StatusOK {
			return refusedError(a.Body.String())
		}
		if err := release(path, c.Keys(), size, a.Body.String()); err != nil {
			return err
		}
	}
	return nil
}

type refusedError string

func (e refusedError) Error() string { return string(e) }

// release notes that cosignatures have left the cosigner.
func release(path string, keys []string, size int, lines string) error {
	if lines == "" {
		return nil
	}
	f, err := os.OpenFile(path+".released", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n%s\n%send\n", size, strings.Join(keys, " "), lines)
	return errors.Join(err, f.Close())
}

// A cosigner that is killed at any step of what it does, and at times once more while a
// thief of the log's key brings another history, has released cosignatures of one
// history only, and goes on with that or, if it has released none, with either. No
// temporary file stays.
func TestKilledAnywhereItSignsOneHistory(t *testing.T) {
	t.Parallel()
	killpoint.Need(t)
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(7, 7))
			steps := 0
			for n := 1; ; n++ {
				path := filepath.Join(t.TempDir(), "cosigner")
				if !killpoint.Run(t, n, path, string(role), "one") {
					break
				}
				steps++
				first := releasedOf(t, path, "one")
				if n%3 == 0 {
					killpoint.Try(t, 1+random.IntN(n+20), path, string(role), "other")
				}
				ended := map[string]error{}
				for _, name := range []string{"other", "one"} {
					err := bring(path, role, history(name))
					if _, refused := errors.AsType[refusedError](err); err != nil && !refused {
						t.Fatalf("killed at step %d: %v", n, err)
					}
					ended[name] = err
				}
				if (ended["one"] == nil) == (ended["other"] == nil) {
					t.Fatalf("killed at step %d: one history ended with %v, the other with %v", n, ended["one"], ended["other"])
				}
				if first > 0 && ended["one"] != nil {
					t.Fatalf("killed at step %d: it released cosignatures, and then went on with the other history", n)
				}
				if left, err := filepath.Glob(filepath.Join(path, "*", ".new-*")); err != nil || len(left) > 0 {
					t.Errorf("killed at step %d: %q are left, %v", n, left, err)
				}
				one, other := releasedOf(t, path, "one"), releasedOf(t, path, "other")
				if one > 0 && other > 0 || one+other == 0 {
					t.Fatalf("killed at step %d: %d cosignatures of one history and %d of the other", n, one, other)
				}
			}
			t.Logf("killed at %d steps", steps)
			if steps < 20 {
				t.Errorf("killed at %d steps only", steps)
			}
		})
	}
}

// releasedOf counts the cosignatures that were released and are of a history.
func releasedOf(t *testing.T, path, name string) (n int) {
	t.Helper()
	data, err := os.ReadFile(path + ".released")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(data), "end\n")
	// What follows on the last end was being noted when the process was killed.
	for _, block := range blocks[:len(blocks)-1] {
		part := strings.SplitN(block, "\n", 3)
		size, err := strconv.Atoi(part[0])
		if err != nil || len(part) != 3 {
			continue // a note that was cut off, and the next one after it
		}
		for vkey := range strings.SplitSeq(part[1], " ") {
			if specIsBy(t, vkey, part[2], history(name).text(size), [2]int{0, size}) {
				n++
			}
		}
	}
	return n
}
