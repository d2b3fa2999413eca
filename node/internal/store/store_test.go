package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

func open(t *testing.T, root string, max int64) *Store {
	t.Helper()
	s, err := Open(root, max, slog.New(slog.DiscardHandler), func(digest.Digest) {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, content string) digest.Digest {
	t.Helper()
	d, err := s.Put([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBlobSurvivesAndIsCheckedAfterARestart(t *testing.T) {
	root := t.TempDir()
	good, bad := put(t, open(t, root, 0), "good"), put(t, open(t, root, 0), "bad")
	s := open(t, root, 0)
	if err := os.WriteFile(s.file(bad), []byte("BAD"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := s.ReadAll(good, 10); err != nil || string(data) != "good" {
		t.Errorf("good blob: %q, %v", data, err)
	}
	if _, err := s.Open(bad); !errors.Is(err, ErrNotFound) {
		t.Errorf("corrupt blob: %v, want ErrNotFound", err)
	}
	if s.Has(bad) || s.Corrupt() != 1 {
		t.Errorf("corrupt blob: still there %v, counted %d", s.Has(bad), s.Corrupt())
	}
	put(t, s, "bad") // healed
	if _, err := s.Open(bad); err != nil {
		t.Error(err)
	}
}

func TestChangeUnderARunningStoreIsFound(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	d := put(t, s, "content")
	if _, err := s.ReadAll(d, 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file(d), []byte("c0ntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(d); !errors.Is(err, ErrNotFound) {
		t.Errorf("changed blob: %v, want ErrNotFound", err)
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	var gone []digest.Digest
	s, err := Open(t.TempDir(), 30, slog.New(slog.DiscardHandler), func(d digest.Digest) { gone = append(gone, d) })
	if err != nil {
		t.Fatal(err)
	}
	var all []digest.Digest
	for i := range 3 {
		all = append(all, put(t, s, fmt.Sprintf("%010d", i)))
	}
	f, err := s.Open(all[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, s, "0123456789")
	if len(gone) != 1 || gone[0] != all[1] || s.Has(all[1]) {
		t.Errorf("evicted %v, want %v", gone, all[1])
	}
	if _, err := os.Stat(s.file(all[1])); err == nil {
		t.Error("the file of the evicted blob is still there")
	}
}

func TestWrongContentIsNotKept(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	d := digest.FromString("expected")
	i, err := s.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(i, "other"); err != nil {
		t.Fatal(err)
	}
	if err := i.Commit(); !errors.Is(err, ErrWrongDigest) {
		t.Errorf("commit: %v, want ErrWrongDigest", err)
	}
	left, _ := os.ReadDir(s.ingestDir())
	if s.Has(d) || len(left) != 0 {
		t.Errorf("kept: %v, temporary files: %d", s.Has(d), len(left))
	}
}
