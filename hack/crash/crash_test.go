// Package crash ends publishers and mirrors by SIGKILL at random moments, and
// checks that no acknowledged block is lost, doubled or contradicted.
package crash

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	defaultRounds = 12          // in `make test`; `make test-crash` does 300
	rotateEvery   = 8           // rounds
	startTimeout  = time.Minute // the ledger itself gives up after half of it, and says why
	origin        = "ledger.example/crash"
)

// process is a worker that is killed now and then.
type process struct {
	cmd    *exec.Cmd
	ready  chan struct{} // closed when it says so
	ended  chan struct{} // closed when it has ended, and all that it said was read
	stderr *bytes.Buffer
	killed bool
}

// start starts a worker, by a program that is given to run it, if any.
func start(t *testing.T, by []string, role string, said func(line string), args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := slices.Concat(by, []string{self}, args)
	p := &process{cmd: exec.Command(command[0], command[1:]...), ready: make(chan struct{}), ended: make(chan struct{}), stderr: new(bytes.Buffer)}
	p.cmd.Env = append(os.Environ(), workerEnv+"="+role)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end both
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			if line = strings.TrimSuffix(line, "\n"); line == "ready" {
				close(p.ready)
			} else {
				said(line)
			}
		}
	}()
	return p
}

// awaitReady returns how long it took.
func (p *process) awaitReady(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case <-p.ready:
	case <-p.ended:
		_ = p.cmd.Wait()
		t.Fatalf("a process did not start: %s", p.stderr)
	case <-time.After(startTimeout):
		t.Fatalf("a process did not start within %s", startTimeout)
	}
	return time.Since(began)
}

// kill kills the process. It must not have ended by itself.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.killed {
		return
	}
	select {
	case <-p.ended:
		p.killed = true
		_ = p.cmd.Wait()
		t.Fatalf("a process ended by itself: %s", p.stderr)
	default:
	}
	p.end(t)
}

// end kills the process if it has not ended by itself.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.killed = true
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	<-p.ended
	_ = p.cmd.Wait() // by SIGKILL
}

// campaign is what the test knows of the processes.
type campaign struct {
	t                *testing.T
	dir              string
	pubAddr, mirAddr string
	keyFile, vkey    string // the first key, which everyone pinned
	keys             []string
	auditor          *replica.Follower

	mu      sync.Mutex // guards what the publisher said
	acked   []map[int]int64
	revoked map[int64]int64

	starts []time.Duration
}

func TestKillAtAnyMoment(t *testing.T) {
	rounds := defaultRounds
	if s := os.Getenv("PYRSIA_CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := newCampaign(t)
	pub, mir := c.publisher(), c.mirror()
	defer func() { pub.kill(t); mir.kill(t) }()
	began := time.Now()
	for round := range rounds {
		ended := c.round(round, &pub, &mir)
		if round%rotateEvery == rotateEvery-1 {
			c.rotate(&pub)
		}
		if os.Getenv("PYRSIA_CRASH_ROUNDS") != "" && (round+1)%25 == 0 {
			t.Logf("round %d, %s: %d blocks, killed %s", round+1, time.Since(began).Round(time.Second), c.auditor.Size(), ended)
		}
	}
	for _, p := range []*process{pub, mir} {
		select {
		case <-p.ready:
		case <-time.After(startTimeout):
			t.Fatal("a process is not ready after the last round")
		}
		p.kill(t)
	}
	c.audit(rounds)
}

func newCampaign(t *testing.T) *campaign {
	t.Helper()
	c := &campaign{t: t, dir: t.TempDir(), pubAddr: freeAddr(t), mirAddr: freeAddr(t), revoked: map[int64]int64{}}
	for range clients {
		c.acked = append(c.acked, map[int]int64{})
	}
	c.keyFile = filepath.Join(c.dir, "keys")
	c.vkey = c.newKey()
	c.writeKeys()
	var err error
	if c.auditor, err = replica.OpenFollower(t.Context(), filepath.Join(c.dir, "auditor"), c.vkey, quiet); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.auditor.Close() })
	return c
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func (c *campaign) newKey() (vkey string) {
	skey, vkey, err := ledger.GenerateKey(origin)
	if err != nil {
		c.t.Fatal(err)
	}
	c.keys = append(c.keys, skey)
	return vkey
}

func (c *campaign) writeKeys() {
	if err := os.WriteFile(c.keyFile, []byte(strings.Join(c.keys, "\n")), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *campaign) publisher(by ...string) *process {
	c.mu.Lock()
	next := make([]string, clients)
	for client, acked := range c.acked {
		newest := -1
		for n := range acked {
			newest = max(newest, n)
		}
		next[client] = strconv.Itoa(newest + 1) // perhaps it was appended without an acknowledgement
	}
	c.mu.Unlock()
	return start(c.t, by, "publisher", c.said, filepath.Join(c.dir, "publisher"), c.keyFile, c.pubAddr, strings.Join(next, ","))
}

func (c *campaign) mirror() *process {
	return start(c.t, nil, "mirror", func(string) {}, filepath.Join(c.dir, "mirror"), c.vkey, "http://"+c.pubAddr, c.mirAddr)
}

func (c *campaign) said(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var client, n int
	var height, by int64
	if _, err := fmt.Sscanf(line, "ack %d %d %d", &client, &n, &height); err == nil {
		c.acked[client][n] = height
		return
	}
	if _, err := fmt.Sscanf(line, "revoked %d %d", &height, &by); err == nil {
		c.revoked[height] = by
	}
}

// round kills one of the processes, or both, at a random moment: while it
// starts, or while it works.
func (c *campaign) round(round int, pub, mir **process) (ended string) {
	victims := map[string]bool{"publisher": rand.N(3) > 0, "mirror": rand.N(3) == 0}
	if !victims["publisher"] && !victims["mirror"] {
		victims["mirror"] = true
	}
	atStart := rand.N(4) == 0
	if !atStart {
		(*pub).awaitReady(c.t)
		(*mir).awaitReady(c.t)
		time.Sleep(rand.N(500 * time.Millisecond))
	} else {
		time.Sleep(rand.N(60 * time.Millisecond))
	}
	if victims["publisher"] {
		(*pub).kill(c.t)
		*pub = c.publisher()
		ended += " publisher"
	}
	if victims["mirror"] {
		(*mir).kill(c.t)
		*mir = c.mirror()
		ended += " mirror"
	}
	if atStart {
		return ended + " (while starting)"
	}
	if victims["publisher"] {
		c.starts = append(c.starts, (*pub).awaitReady(c.t))
	}
	if victims["mirror"] {
		c.starts = append(c.starts, (*mir).awaitReady(c.t))
	}
	c.observe(c.pubAddr)
	c.observe(c.mirAddr)
	return ended
}

// rotate hands the ledger over a step further: to a second key beside the
// first, or to the second alone.
func (c *campaign) rotate(pub **process) {
	(*pub).awaitReady(c.t) // so that the step before is on the ledger
	if len(c.keys) == 1 {
		c.newKey()
	} else {
		c.keys = c.keys[1:]
	}
	(*pub).kill(c.t)
	c.writeKeys()
	*pub = c.publisher()
}
