package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// smallDisk is a disk of its own.
func smallDisk(t *testing.T, size string) (root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	root = t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}

// Announcing blobs takes no space from others: neither on the disk, nor within
// the store's bound, where nothing is dropped for blobs that never arrive.
func TestAnnouncedSizesTakeNoRoom(t *testing.T) {
	disk := func(c Config) *Store { return open(t, smallDisk(t, "128m"), c) }
	for name, s := range map[string]*Store{"of a disk": disk(Config{Pinned: true}), "within a bound": disk(Config{Max: 120 << 20})} {
		t.Run(name, func(t *testing.T) {
			old := put(t, s, "of use")
			var lies []*Ingest
			for i := range 3 {
				lie, err := s.Create(digest.FromString(fmt.Sprint("lie ", i)), 70<<20)
				if err != nil {
					t.Fatal(err)
				}
				lies = append(lies, lie)
			}
			content := put(t, s, strings.Repeat("content ", 6<<20)) // 48 MiB
			if !s.Has(old) {
				t.Error("a blob was dropped for bytes that did not come")
			}
			reader, err := s.Open(t.Context(), content) // so that it stays
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			// A blob that does arrive does not fit, and leaves nothing behind.
			rest := make([]byte, 60<<20)
			if _, err := lies[0].Write(rest); !errors.Is(err, ErrFull) {
				t.Errorf("writing more than there is: %v, want ErrFull", err)
			}
			for _, lie := range lies {
				if err := lie.Abort(); err != nil {
					t.Error(err)
				}
			}
			left, _ := os.ReadDir(s.ingestDir())
			if len(left) != 0 || s.reserved != 0 {
				t.Errorf("%d temporary files, %d bytes reserved", len(left), s.reserved)
			}
		})
	}
}

// A full disk first costs the blobs that are not in use, and then says so.
func TestFullDisk(t *testing.T) {
	root := smallDisk(t, "1m")
	s := open(t, root, Config{})
	content := func(i int) string { return fmt.Sprintf("%0400000d", i) }
	a, b := put(t, s, content(1)), put(t, s, content(2))
	f, err := s.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, s, content(3))
	if !s.Has(a) || s.Has(b) {
		t.Errorf("kept: %t %t, want the one in use alone", s.Has(a), s.Has(b))
	}
	if _, err := s.Create(digest.FromString("big"), 2<<20); !errors.Is(err, ErrFull) {
		t.Errorf("create: %v, want ErrFull", err)
	}
	if blobs, _ := s.Usage(); blobs != 2 {
		t.Error("blobs were dropped for one that no disk of this size holds")
	}
	if err := s.Usable(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(s.ingestDir())
	if len(left) != 0 || s.reserved != 0 {
		t.Errorf("%d temporary files, %d bytes reserved", len(left), s.reserved)
	}
}

// Abandoned blobs count against the bound, even after a restart, and are
// evicted first.
func TestUnfinishedBlobsAreWithinTheBound(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Config{Max: 30})
	left := func(s *Store, content string) digest.Digest {
		t.Helper()
		d := digest.FromString(content)
		p, err := s.Partial(d, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	there := func(want ...digest.Digest) {
		t.Helper()
		files, err := os.ReadDir(s.partialDir())
		if err != nil || len(files) != len(want) || s.unfinishedSize != int64(10*len(want)) {
			t.Fatalf("%d unfinished blobs of %d bytes, %v, want %d", len(files), s.unfinishedSize, err, len(want))
		}
		for _, d := range want {
			if _, err := os.Stat(filepath.Join(s.partialDir(), d.Encoded())); err != nil {
				t.Error(err)
			}
		}
	}
	a, b := left(s, "aaaaaaaaaa"), left(s, "bbbbbbbbbb")
	kept := put(t, s, "kept kept!")
	there(a, b)
	c := left(s, "cccccccccc")
	there(b, c)
	if err := os.Chtimes(filepath.Join(s.partialDir(), b.Encoded()), time.Now(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, Config{Max: 30})
	there(b, c)
	again, err := s.Partial(b, 10) // somebody goes on with it: it does not go
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "dddddddddd")
	if !s.onDisk(kept) || len(s.unfinished) != 0 {
		t.Errorf("the blob that was complete: on disk %t; %d unfinished", s.onDisk(kept), len(s.unfinished))
	}
	if _, err := again.WriteAt([]byte("bbbbbbbbbb"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.Commit(), again.Close()); err != nil {
		t.Fatal(err)
	}
	there()
	if data, err := s.ReadAll(t.Context(), b, 10); err != nil || string(data) != "bbbbbbbbbb" {
		t.Errorf("%q, %v", data, err)
	}
}
