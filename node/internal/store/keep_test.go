package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/s3test"
	"github.com/pyrsia/pyrsia-operator/node/internal/bucket"
)

// gateway is an S3-compatible server.
type gateway struct{ *s3test.Gateway }

func startGateway(t *testing.T) gateway { t.Helper(); return gateway{s3test.Start(t)} }

// file is where the gateway keeps a blob.
func (g gateway) file(d digest.Digest) string {
	return filepath.Join(g.Dir, "ledger", "blobs", "sha256", d.Encoded())
}

func (g gateway) open(t *testing.T, addr string) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "s3://pyrsia/ledger?endpoint=http://" + addr, SecretDir: g.Secrets})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Both stores keep the same promises.
func TestStoresOnDiskAndInABucket(t *testing.T) {
	for name, reopen := range map[string]func(t *testing.T) func(root string) *Store{
		"disk": func(t *testing.T) func(string) *Store {
			return func(root string) *Store { return open(t, root, Config{}) }
		},
		"bucket": func(t *testing.T) func(string) *Store {
			g := startGateway(t)
			return func(root string) *Store { return open(t, root, Config{Bucket: g.open(t, g.Addr)}) }
		},
	} {
		t.Run(name, func(t *testing.T) { conform(t, t.TempDir(), reopen(t)) })
	}
}

func conform(t *testing.T, root string, reopen func(root string) *Store) {
	s := reopen(root)
	kept, gone := settle(t, s, "kept"), settle(t, s, "gone")
	if err := s.Remove(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	i, err := s.Create(digest.FromString("right"), 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Write([]byte("wrong")); err != nil {
		t.Fatal(err)
	}
	if err := i.Commit(); !errors.Is(err, ErrWrongDigest) {
		t.Errorf("wrong content: %v, want ErrWrongDigest", err)
	}
	for _, s := range []*Store{s, reopen(root)} {
		if data, err := s.ReadAll(t.Context(), kept, 10); err != nil || string(data) != "kept" {
			t.Errorf("kept: %q, %v", data, err)
		}
		for what, d := range map[string]digest.Digest{"removed": gone, "wrong": digest.FromString("right"), "unknown": digest.FromString("?")} {
			if _, err := s.Open(t.Context(), d); !errors.Is(err, ErrNotFound) || s.Has(d) {
				t.Errorf("%s: %v, has %t, want ErrNotFound", what, err, s.Has(d))
			}
		}
		if size, ok := s.Size(kept); !ok || size != 4 || len(s.Unsettled()) != 0 {
			t.Errorf("kept: %d bytes, %t; %d blobs unsettled", size, ok, len(s.Unsettled()))
		}
	}
}

func settle(t *testing.T, s *Store, content string) digest.Digest {
	t.Helper()
	d := put(t, s, content)
	if err := s.Settle(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDiskIsACacheOfTheBucket(t *testing.T) {
	g := startGateway(t)
	root := t.TempDir()
	s := open(t, root, Config{Max: 20, Bucket: g.open(t, g.Addr)})
	first := settle(t, s, "aaaaaaaaaa")
	alone := put(t, s, "bbbbbbbbbb") // not in the bucket: it must not go
	put(t, s, "cccccccccc")
	if _, err := os.Stat(s.file(first)); err == nil || !s.Has(first) || !s.onDisk(alone) {
		t.Fatalf("evicted: %v, has %t, the unsettled one is on disk: %t", err, s.Has(first), s.onDisk(alone))
	}
	if _, err := s.Put([]byte("dddddddddd")); !errors.Is(err, ErrFull) {
		t.Errorf("with all of the disk unsettled: %v, want ErrFull", err)
	}
	// A process that died before it uploaded: the next one does.
	s = open(t, root, Config{Max: 20, Bucket: g.open(t, g.Addr)})
	if n := len(s.Unsettled()); n != 2 {
		t.Fatalf("%d blobs unsettled after a restart, want 2", n)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Backup(ctx) }()
	for len(s.Unsettled()) > 0 && t.Context().Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	<-ended
	if data, err := s.ReadAll(t.Context(), first, 10); err != nil || string(data) != "aaaaaaaaaa" {
		t.Errorf("back from the bucket: %q, %v", data, err)
	}
	// A disk that is lost loses nothing.
	s = open(t, t.TempDir(), Config{Bucket: g.open(t, g.Addr)})
	if data, err := s.ReadAll(t.Context(), alone, 10); err != nil || string(data) != "bbbbbbbbbb" {
		t.Errorf("on a new disk: %q, %v", data, err)
	}
}

func TestNothingUnverifiedComesFromTheBucket(t *testing.T) {
	g := startGateway(t)
	s := open(t, t.TempDir(), Config{Bucket: g.open(t, g.Addr)})
	changed, lost := settle(t, s, "changed"), settle(t, s, "lost")
	if err := errors.Join(os.WriteFile(g.file(changed), []byte("chAnged"), 0o644), os.Remove(g.file(lost))); err != nil {
		t.Fatal(err)
	}
	var told []digest.Digest
	b := g.open(t, g.Addr)
	s = open(t, t.TempDir(), Config{Bucket: b, Corrupt: func(d digest.Digest) { told = append(told, d) }})
	if _, err := s.Open(t.Context(), changed); !errors.Is(err, ErrNotFound) || !slices.Equal(told, []digest.Digest{changed}) || s.Has(changed) {
		t.Errorf("changed blob: %v, told of %v, want ErrNotFound", err, told)
	}
	if _, err := s.Open(t.Context(), lost); !errors.Is(err, ErrNotFound) {
		t.Errorf("lost blob: %v, want ErrNotFound", err)
	}
	settle(t, s, "changed") // healed: it goes up again
	if data, err := os.ReadFile(g.file(changed)); err != nil || string(data) != "changed" {
		t.Errorf("healed in the bucket: %q, %v", data, err)
	}
}

func TestBucketThatIsAwayAndConnectionsThatBreak(t *testing.T) {
	g := startGateway(t)
	content := make([]byte, 40<<20) // three parts
	if _, err := rand.NewChaCha8([32]byte{1}).Read(content); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), Config{Bucket: g.open(t, g.Addr)})
	d := put(t, s, string(content))
	g.Stop()
	if err := s.Settle(t.Context(), d); err == nil || len(s.Unsettled()) != 1 {
		t.Errorf("without the bucket: %v, %d unsettled", err, len(s.Unsettled()))
	}
	g.Restart(t)
	if err := s.Settle(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	p := &cutter{to: g.Addr, at: 15 << 20}
	s = open(t, t.TempDir(), Config{Bucket: g.open(t, p.listen(t))})
	data, err := s.ReadAll(t.Context(), d, 1<<30)
	if err != nil || !bytes.Equal(data, content) {
		t.Errorf("over connections that break: %d bytes, %v", len(data), err)
	}
	if p.cuts.Load() < 2 {
		t.Errorf("%d connections were cut, want 2", p.cuts.Load())
	}
}

// cutter forwards connections and ends each after so many bytes of answers.
type cutter struct {
	to   string
	at   int64
	cuts atomic.Int32
}

func (c *cutter) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go c.forward(in)
		}
	}()
	return l.Addr().String()
}

func (c *cutter) forward(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() { _, _ = io.Copy(out, in) }()
	if n, _ := io.CopyN(in, out, c.at); n == c.at {
		c.cuts.Add(1)
	}
}
