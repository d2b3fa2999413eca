package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func open(t *testing.T, root string, c Config) *Store {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	s, err := Open(root, c)
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
	good, bad := put(t, open(t, root, Config{}), "good"), put(t, open(t, root, Config{}), "bad")
	s := open(t, root, Config{})
	if err := os.WriteFile(s.file(bad), []byte("BAD"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := s.ReadAll(t.Context(), good, 10); err != nil || string(data) != "good" {
		t.Errorf("good blob: %q, %v", data, err)
	}
	if _, err := s.Open(t.Context(), bad); !errors.Is(err, ErrNotFound) {
		t.Errorf("corrupt blob: %v, want ErrNotFound", err)
	}
	if s.Has(bad) || s.Corrupt() != 1 {
		t.Errorf("corrupt blob: still there %v, counted %d", s.Has(bad), s.Corrupt())
	}
	put(t, s, "bad") // healed
	if _, err := s.Open(t.Context(), bad); err != nil {
		t.Error(err)
	}
}

func TestChangeUnderARunningStoreIsFound(t *testing.T) {
	s := open(t, t.TempDir(), Config{})
	d := put(t, s, "content")
	if _, err := s.ReadAll(t.Context(), d, 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file(d), []byte("c0ntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), d); !errors.Is(err, ErrNotFound) {
		t.Errorf("changed blob: %v, want ErrNotFound", err)
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	s := open(t, t.TempDir(), Config{Max: 30})
	var all []digest.Digest
	for i := range 3 {
		all = append(all, put(t, s, fmt.Sprintf("%010d", i)))
	}
	if _, err := s.ReadAll(t.Context(), all[0], 10); err != nil {
		t.Fatal(err)
	}
	put(t, s, "0123456789")
	if !s.Has(all[0]) || s.Has(all[1]) || !s.Has(all[2]) {
		t.Errorf("kept: %t %t %t, want the second one to go", s.Has(all[0]), s.Has(all[1]), s.Has(all[2]))
	}
	if _, err := os.Stat(s.file(all[1])); err == nil {
		t.Error("the file of the evicted blob is still there")
	}
}

// Evicting an open file would free nothing.
func TestOpenBlobsArePinned(t *testing.T) {
	s := open(t, t.TempDir(), Config{Max: 20})
	a, b := put(t, s, "aaaaaaaaaa"), put(t, s, "bbbbbbbbbb")
	fa, err := s.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	fb, err := s.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put([]byte("cccccccccc")); !errors.Is(err, ErrFull) {
		t.Errorf("put with all in use: %v, want ErrFull", err)
	}
	if err := errors.Join(fb.Close(), fb.Close()); err != nil { // twice does no harm
		t.Error(err)
	}
	put(t, s, "cccccccccc")
	if !s.Has(a) || s.Has(b) {
		t.Errorf("kept: %t %t, want the open one", s.Has(a), s.Has(b))
	}
	if err := fa.Close(); err != nil {
		t.Error(err)
	}
}

func TestBlobsBeingWrittenCountForTheBound(t *testing.T) {
	s := open(t, t.TempDir(), Config{Max: 30})
	old := put(t, s, "aaaaaaaaaa")
	i, err := s.Create(digest.FromString("x"), 25)
	if err != nil {
		t.Fatal(err)
	}
	if s.Has(old) {
		t.Error("no room was made for the blob that is being written")
	}
	for _, size := range []int64{10, 31} {
		if _, err := s.Create(digest.FromString("y"), size); !errors.Is(err, ErrFull) {
			t.Errorf("create of %d bytes: %v, want ErrFull", size, err)
		}
	}
	if err := i.Abort(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "0123456789012345678901234567")
}

func TestPinnedContentNeverGoes(t *testing.T) {
	s := open(t, t.TempDir(), Config{Max: 10, Pinned: true})
	put(t, s, "0123456789")
	if _, err := s.Put([]byte("x")); !errors.Is(err, ErrFull) {
		t.Errorf("put: %v, want ErrFull", err)
	}
}

func TestOrderOfUseSurvivesARestart(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Config{})
	var all []digest.Digest
	for i := range 4 {
		all = append(all, put(t, s, fmt.Sprintf("%010d", i)))
	}
	for age, d := range []digest.Digest{all[2], all[0], all[3], all[1]} { // newest first
		at := time.Now().Add(-time.Duration(age) * time.Hour)
		if err := os.Chtimes(s.file(d), at, at); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, root, Config{Max: 20})
	if !s.Has(all[2]) || !s.Has(all[0]) || s.Has(all[3]) || s.Has(all[1]) {
		t.Error("not the ones that were used last are kept")
	}
}

func TestScrubFindsWhatNobodyAsksFor(t *testing.T) {
	found := make(chan digest.Digest, 1)
	s := open(t, t.TempDir(), Config{Corrupt: func(d digest.Digest) { found <- d }})
	d, good := put(t, s, "content"), put(t, s, "other")
	if err := os.WriteFile(s.file(d), []byte("c0ntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	// As if the disk had changed it behind the file system's back.
	info, err := os.Stat(s.file(d))
	if err != nil {
		t.Fatal(err)
	}
	s.blobs[d].checked = fingerprintOf(info)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { s.Scrub(ctx, 100<<20, time.Hour) })
	if got := <-found; got != d {
		t.Errorf("found %s, want %s", got, d)
	}
	cancel()
	done.Wait()
	if s.Has(d) || !s.Has(good) || s.Corrupt() != 1 {
		t.Errorf("has %t %t, counted %d", s.Has(d), s.Has(good), s.Corrupt())
	}
	if data, err := os.ReadFile(filepath.Join(s.quarantineDir(), d.Encoded())); err != nil || string(data) != "c0ntent" {
		t.Errorf("quarantine: %q, %v", data, err)
	}
}

func TestQuarantineIsBounded(t *testing.T) {
	s := open(t, t.TempDir(), Config{})
	for i := range maxQuarantine + 3 {
		d := put(t, s, fmt.Sprint(i))
		if err := os.WriteFile(s.file(d), []byte("bad"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), d); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	if files, _ := os.ReadDir(s.quarantineDir()); len(files) != maxQuarantine {
		t.Errorf("%d files, want %d", len(files), maxQuarantine)
	}
}

// A blob that is hashed for the first time keeps no client waiting for ever.
func TestWaitForACheckIsBounded(t *testing.T) {
	root := t.TempDir()
	d := put(t, open(t, root, Config{}), "content")
	s := open(t, root, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.blobs[d].check = &check{done: make(chan struct{})} // one that hangs
	if _, err := s.Open(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
}

// A blob that goes and comes at the same time is there whenever the store
// says so.
func TestEvictionAndReturnDoNotMix(t *testing.T) {
	s := open(t, t.TempDir(), Config{Max: 40})
	var done sync.WaitGroup
	for w := range 4 {
		done.Go(func() {
			for i := range 200 {
				content := fmt.Sprintf("%010d", (i+w)%8)
				d, err := s.Put([]byte(content))
				if errors.Is(err, ErrFull) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				data, err := s.ReadAll(t.Context(), d, 10)
				if err != nil && !errors.Is(err, ErrNotFound) || err == nil && string(data) != content {
					t.Errorf("read %q, %v, want %q", data, err, content)
				}
			}
		})
	}
	done.Wait()
	files, err := os.ReadDir(s.blobDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs, size := s.Usage()
	if len(files) != blobs || size > 40 || s.reserved != 0 || s.Corrupt() != 0 {
		t.Errorf("%d files, %d blobs of %d bytes, %d reserved, %d corrupt", len(files), blobs, size, s.reserved, s.Corrupt())
	}
}

func TestWrongContentIsNotKept(t *testing.T) {
	s := open(t, t.TempDir(), Config{})
	d := digest.FromString("expected")
	i, err := s.Create(d, 5)
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

// A small blob that is corrupt on disk is replaced by the next Put of it.
func TestPutMendsWhatIsCorrupt(t *testing.T) {
	root := t.TempDir()
	d := put(t, open(t, root, Config{Pinned: true}), "piece list")
	s := open(t, root, Config{Pinned: true})
	if err := os.WriteFile(s.file(d), []byte("p1ece list"), 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, s, "piece list")
	if data, err := s.ReadAll(t.Context(), d, 10); err != nil || string(data) != "piece list" {
		t.Errorf("%q, %v", data, err)
	}
}
