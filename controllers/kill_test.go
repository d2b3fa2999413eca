package controllers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	pyrsia "github.com/pyrsia/pyrsia-operator/node"
)

// nodeProcessEnv makes the test's program a node with the configuration in
// this file.
const nodeProcessEnv = "PYRSIA_TEST_NODE"

func runNodeProcess(file string) int {
	data, err := os.ReadFile(file)
	var config pyrsia.Config
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err == nil {
		err = pyrsia.Run(context.Background(), config)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// process runs a pod's node in a process that can be killed.
type process struct {
	file string
	cmd  *exec.Cmd
	log  bytes.Buffer // of the one that runs
}

func (p *process) start(t *testing.T) {
	t.Helper()
	p.log.Reset()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), nodeProcessEnv+"="+p.file)
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// killable runs a publisher's pod as a process.
func (c *cluster) killable(t *testing.T, publisher *v1alpha1.PyrsiaNode) (*pod, *process) {
	t.Helper()
	template := c.awaitTemplate(t, publisher)
	p := &pod{ip: nextIP(), data: t.TempDir()}
	config := c.nodeConfig(t, publisher, template, p)
	config.Logger = nil
	data, err := json.Marshal(config)
	must(t, err)
	node := &process{file: filepath.Join(t.TempDir(), "config.json")}
	must(t, os.WriteFile(node.file, data, 0o600))
	node.start(t)
	t.Cleanup(node.kill)
	p.Pod = c.createPod(t, publisher, template, p.ip)
	return p, node
}

// A publisher that is killed again and again while a set is published loses
// nothing, records nothing twice, and the set ends Ready. `make test-crash`
// kills it 50 times.
func TestPublisherIsKilledWhileASetIsPublished(t *testing.T) {
	c, ns := ownNamespace(t)
	kills, images := 5, 60
	if n, err := strconv.Atoi(os.Getenv("PYRSIA_CRASH_ROUNDS")); err == nil {
		kills, images = n, 10*n
	}
	r := upstreamtest.New()
	r.Fault = func(http.ResponseWriter, *http.Request) bool { // a registry that is far away
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		return false
	}
	server := httptest.NewServer(r)
	defer server.Close()
	var tags []string
	for i := range images {
		tag := fmt.Sprintf("v%d", i)
		platform := upstreamtest.OfficialPlatform([]string{"amd64", "arm64v8"}[i%2])
		d := r.AddIndex(r.AddImage(platform, tag, []byte("a layer of every image"), bytes.Repeat([]byte(tag), 1+i*100)))
		r.Tag("library/app", tag, d)
		tags = append(tags, tag)
	}
	publisher := publisherNode(ns, server.URL)
	c.create(t, publisher)
	pod, node := c.killable(t, publisher)
	c.awaitCurrent(t, publisher)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "app", Tags: tags})
	c.create(t, set)

	killed := 0
	for ; killed < kills; killed++ {
		c.awaitOpen(t, pod, node)
		// At any moment of its work, or of its start, from the first image on until
		// half of them are published.
		c.until(t, set, func() error {
			least := killed * images / (2 * kills)
			return errorIf(int(set.Status.Published) < least, "%d of the first %d images are published\nthe node's log:\n%s", set.Status.Published, least, node.log.String())
		})
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
		node.kill()
		node.start(t)
		c.get(t, set)
		t.Logf("killed %d times: %d of %d published", killed+1, set.Status.Published, images)
	}
	c.awaitOpen(t, pod, node)
	eventuallyWithin(t, patience+time.Duration(images)*time.Second, func() error {
		c.get(t, set)
		return errorIf(!status.IsTrue(set, v1alpha1.ConditionReady) || int(set.Status.Published) != images, "%d of %d published:\n%s\nthe node's log:\n%s", set.Status.Published, images, conditionsText(set.Status.Conditions), node.log.String())
	})
	c.until(t, publisher, func() error {
		return errorIf(objects.LedgerSize(publisher) != int64(images), "the ledger has %d blocks for %d images", objects.LedgerSize(publisher), images)
	})
	heights := map[int64]string{}
	for _, art := range c.artifacts(t, ns) {
		if art.Status.Block == nil {
			t.Errorf("%s has no block", art.Name)
			continue
		}
		if other := heights[art.Status.Block.Height]; other != "" {
			t.Errorf("block %d is of %s and of %s", art.Status.Block.Height, other, art.Name)
		}
		heights[art.Status.Block.Height] = art.Name
		verifyOffline(t, publisher.Status.Ledger.Key, &art)
		if _, err := os.Stat(blobFile(pod.data, digest.Digest(art.Spec.Digest))); err != nil {
			t.Errorf("the content of %s: %v", art.Name, err)
		}
	}
	if len(heights) != images {
		t.Errorf("%d blocks, %d images", len(heights), images)
	}
	blobs, corrupt := checkBlobs(t, pod.data)
	t.Logf("%d kills, %d images, %d blocks, %d blobs, %d of them corrupt", killed, images, objects.LedgerSize(publisher), blobs, corrupt)
}

// awaitOpen waits until a pod's node answers.
func (c *cluster) awaitOpen(t *testing.T, p *pod, node *process) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + p.ip + ":" + strconv.Itoa(desired.PortOpen) + "/healthz")
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the node does not answer: %v\n%s", err, node.log.String())
		}
	}
}

func blobFile(data string, d digest.Digest) string {
	return filepath.Join(data, "store", "blobs", d.Algorithm().String(), d.Encoded())
}

// checkBlobs hashes every blob in a node's store.
func checkBlobs(t *testing.T, data string) (blobs, corrupt int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(data, "store", "blobs", "sha256"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		blobs++
		if got := fmt.Sprintf("%x", h.Sum(nil)); got != filepath.Base(name) {
			corrupt++
			t.Errorf("blob %s has SHA-256 %s", filepath.Base(name), got)
		}
		return nil
	})
	must(t, err)
	return blobs, corrupt
}
