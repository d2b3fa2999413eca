package portproof

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// mirrorAt serves the proof of a mirror at a port of its own.
func mirrorAt(t *testing.T, secret []byte) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config.Handler = Handler(secret, s.Listener.Addr().String())
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func secretIn(t *testing.T) []byte {
	t.Helper()
	secret, err := Secret(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestThePortOfThisMirror(t *testing.T) {
	secret, other := secretIn(t), secretIn(t)
	mine := mirrorAt(t, secret)
	if err := Check(t.Context(), mine.URL, secret, "", 0); err != nil {
		t.Error(err)
	}
	if err := Check(t.Context(), mine.URL, nil, "", 0); err != nil {
		t.Errorf("any mirror will do: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// It asks the real mirror, at the port that this one does have.
	relay := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(mine.URL + r.URL.RequestURI())
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	// From a pod it is asked by the frontend's socket: no other process gets by so.
	bySocket := func(at string) error {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() { _ = http.Serve(l, Relay(strings.TrimPrefix(at, "http://"))) }()
		return Check(t.Context(), at, secret, socket, 0)
	}
	if err := bySocket(mine.URL); err != nil {
		t.Errorf("by a socket: %v", err)
	}
	for name, url := range map[string]string{"another mirror": mirrorAt(t, other).URL, "one that passes on": relay.URL, "nothing": "http://127.0.0.1:1"} {
		if err := bySocket(url); err == nil {
			t.Errorf("by a socket, %s passed", name)
		}
	}
	for name, c := range map[string]struct{ url, want string }{
		"nothing":              {"http://127.0.0.1:1", "nothing listens"},
		"one that is silent":   {"http://" + silent.Addr().String(), "does not answer"},
		"a registry":           {serve(t, http.NotFoundHandler()).URL, "another program"},
		"one that says yes":    {serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, greeting+"yes") })).URL, "another mirror"},
		"another mirror":       {mirrorAt(t, other).URL, "another mirror"},
		"one that passes on":   {relay.URL, "another mirror"},
		"one that leads there": {serve(t, http.RedirectHandler(mine.URL+Path, http.StatusFound)).URL, "another program"},
	} {
		err := Check(t.Context(), c.url, secret, "", 0)
		if wrong, ok := errors.AsType[*Error](err); !ok || !strings.Contains(wrong.Found, c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCheckWaitsForTheMirror(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, secret := l.Addr().String(), secretIn(t)
	_ = l.Close()
	s := &http.Server{Addr: addr, Handler: Handler(secret, addr)}
	time.AfterFunc(300*time.Millisecond, func() { _ = s.ListenAndServe() })
	defer s.Close()
	if err := Check(t.Context(), "http://"+addr, secret, "", 20*time.Second); err != nil {
		t.Error(err)
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	secrets := make([][]byte, 8)
	var all sync.WaitGroup
	for i := range secrets {
		all.Go(func() { secrets[i], _ = Secret(dir) })
	}
	all.Wait()
	for _, s := range secrets {
		if len(s) != secretSize || !bytes.Equal(s, secrets[0]) {
			t.Fatalf("secrets that were made at the same time differ, or are none: %x", secrets)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, SecretFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	for name, lay := range map[string]func(string) error{
		"a link":  func(f string) error { return os.Symlink("/etc/hostname", f) },
		"a pipe":  func(f string) error { return syscall.Mkfifo(f, 0o600) },
		"a short": func(f string) error { return os.WriteFile(f, []byte("x"), 0o600) },
	} {
		dir := t.TempDir()
		if err := lay(filepath.Join(dir, SecretFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Secret(dir); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}
