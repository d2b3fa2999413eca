package crash

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// needs skips a test whose part is missing; in CI it fails.
func needs(t *testing.T, there bool, what string) {
	t.Helper()
	if there {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// A publisher whose system calls fail now and then loses nothing that it has
// acknowledged, and goes on when they do not any more.
func TestFailingSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	needs(t, err == nil, "strace is not installed: apt-get install strace")
	c := newCampaign(t)
	pub := c.publisher() // some blocks to lose
	pub.awaitReady(t)
	time.Sleep(time.Second)
	pub.kill(t)
	for _, fault := range []string{
		"write:error=ENOSPC:when=40+9", "write:error=EIO:when=25+31", "fsync:error=EIO:when=5+6", "renameat:error=EIO:when=3+5",
		"read:error=EIO:when=60+13", "pread64:error=EIO:when=3+4", "openat:error=EMFILE:when=90+11", "mkdirat:error=ENOSPC:when=2+2", "linkat:error=EIO:when=1+1",
	} {
		call, _, _ := strings.Cut(fault, ":")
		pub := c.publisher(strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", "signal=none", "-e", "inject="+fault)
		select { // whether it starts, goes on or gives up: any of it is right
		case <-pub.ended:
		case <-time.After(2 * time.Second):
		}
		pub.end(t)
		// Without the fault it starts and goes on.
		pub = c.publisher()
		pub.awaitReady(t)
		c.observe(c.pubAddr)
		time.Sleep(200 * time.Millisecond)
		pub.kill(t)
	}
	c.copyToMirror()
	c.audit(0)
}

// A publisher whose disk is full says so, and goes on when there is room. The
// last write before that is a short one.
func TestFullDisk(t *testing.T) {
	needs(t, os.Geteuid() == 0, "a small file system is mounted: run it as root")
	c := newCampaign(t)
	disk := filepath.Join(c.dir, "publisher")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=700k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil { // Tessera may still be closing a file
			t.Error(err)
		}
	}()
	for _, size := range []string{"900k", "1100k", "64m"} {
		pub := c.publisher()
		select {
		case <-pub.ended: // an append failed, or it could not start
			pub.end(t)
			if !strings.Contains(pub.stderr.String(), "no space left on device") {
				t.Errorf("a full disk: %s", pub.stderr)
			}
		case <-time.After(startTimeout):
			t.Fatal("the disk never got full, or nobody said so")
		}
		pub.end(t)
		if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	pub := c.publisher()
	pub.awaitReady(t)
	time.Sleep(300 * time.Millisecond)
	c.observe(c.pubAddr)
	pub.kill(t)
	c.copyToMirror()
	c.audit(0)
}

// copyToMirror makes the copy that the audit looks at.
func (c *campaign) copyToMirror() {
	w, err := replica.OpenWriter(c.t.Context(), filepath.Join(c.dir, "publisher"), strings.Join(c.keys, "\n"), quiet)
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Close()
	s := httptest.NewServer(w.Handler())
	defer s.Close()
	f, err := replica.OpenFollower(c.t.Context(), filepath.Join(c.dir, "mirror"), c.vkey, quiet)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Sync(c.t.Context(), client.New(s.URL, http.DefaultClient)); err != nil {
		c.t.Fatal(err)
	}
}

// answers are what a ledger serves of its files.
type answers map[string][]byte

func read(base string, size int64) (answers, error) {
	out := answers{}
	paths := []string{"checkpoint"}
	for _, t := range tlog.NewTiles(torchwood.TileHeight, 0, size) {
		paths = append(paths, torchwood.TilePath(t))
		if t.L == 0 {
			t.L = -1
			paths = append(paths, torchwood.TilePath(t))
		}
	}
	for _, p := range paths {
		resp, err := http.Get(base + "/" + p)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			out[p] = body
		}
	}
	return out, nil
}

// A flipped bit or a cut in any file of a publisher or a mirror: the process
// does not start, and says why, or it runs and never serves a wrong byte. A
// mirror that can read nothing of its ledger except the checkpoint fetches it
// again from its peers.
func TestDamagedFilesAreNeverServed(t *testing.T) {
	const blocks = 300
	dir := t.TempDir()
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(skey), 0o600); err != nil {
		t.Fatal(err)
	}
	healthy := filepath.Join(dir, "publisher")
	want := makeLedgers(t, healthy, filepath.Join(dir, "mirror"), skey, vkey, blocks)
	peer, err := replica.OpenFollower(t.Context(), copyOf(t, filepath.Join(dir, "mirror")), vkey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	s := httptest.NewServer(peer.Handler())
	t.Cleanup(s.Close)
	for _, role := range []string{"publisher", "mirror"} {
		for _, file := range filesOf(t, filepath.Join(dir, role)) {
			for damage, do := range map[string]func(data []byte) []byte{
				"a flipped bit": func(data []byte) []byte { data[len(data)/3] ^= 4; return data },
				"cut":           func(data []byte) []byte { return data[:len(data)/2] },
			} {
				t.Run(role+" "+file+" "+damage, func(t *testing.T) {
					t.Parallel()
					path := copyOf(t, filepath.Join(dir, role))
					data, err := os.ReadFile(filepath.Join(path, file))
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(path, file), do(data), 0o644); err != nil {
						t.Fatal(err)
					}
					serves(t, role, path, file, keyFile, vkey, s.URL, want)
				})
			}
		}
	}
}

// serves starts a process on a damaged ledger, and reads all that it serves.
func serves(t *testing.T, role, path, file, keyFile, vkey, peer string, want answers) {
	addr := freeAddr(t)
	args := []string{path, keyFile, addr, ""} // a publisher without clients
	if role == "mirror" {
		args = []string{path, vkey, peer, addr}
	}
	p := start(t, nil, role, func(string) {}, args...)
	defer p.end(t)
	select {
	case <-p.ready:
	case <-p.ended:
		p.end(t)
		if said := p.stderr.String(); role == "mirror" && file != "checkpoint" || !strings.Contains(said, "opening the ledger in "+path) {
			t.Errorf("a %s does not start: %s", role, said)
		}
		return
	case <-time.After(startTimeout):
		t.Fatal("it neither starts nor says why")
	}
	var got answers
	for deadline := time.Now().Add(startTimeout); len(got) == 0 && time.Now().Before(deadline); {
		var err error
		if got, err = read("http://"+addr, 300); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range got {
		if name != "checkpoint" && !bytes.Equal(body, want[name]) {
			t.Errorf("%s was served with %d wrong bytes", name, len(body))
		}
	}
	if len(got) == 0 {
		t.Error("it runs, and serves nothing")
	}
	v, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if signed, ok := got["checkpoint"]; ok {
		if c, err := ledger.VerifyCheckpoint(v, signed); err != nil || c.Tree.N != 300 {
			t.Errorf("the checkpoint that it serves: %+v, %v", c.Tree, err)
		}
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// makeLedgers makes a publisher's ledger and a mirror's copy, and returns what
// a healthy one serves.
func makeLedgers(t *testing.T, publisher, mirror, skey, vkey string, blocks int) answers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := replica.OpenWriter(ctx, publisher, skey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range blocks {
		group.Go(func() {
			if _, err := w.Append(ctx, entry(i, 0)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	s := httptest.NewServer(w.Handler())
	defer s.Close()
	f, err := replica.OpenFollower(ctx, mirror, vkey, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Sync(ctx, client.New(s.URL, http.DefaultClient)); err != nil {
		t.Fatal(err)
	}
	want, err := read(s.URL, int64(blocks))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return want
}

// filesOf are the files of a ledger that hold something.
func filesOf(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() == 0 {
			return err
		}
		file, err := filepath.Rel(dir, name)
		files = append(files, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
