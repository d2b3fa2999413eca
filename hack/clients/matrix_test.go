// Package clients has real container clients pull from a real mirror, through
// everything that can go wrong. `make test-clients` runs it.
package clients

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

var update = flag.Bool("update", false, "write docs/clients.md anew")

const docsFile = "../../docs/clients.md"

// The outcomes of a pull.
const (
	pulled      = "pulled"
	pulledAgain = "pulled, at the latest on the next try"
	refused     = "refused, says why"
	refusedMute = "refused"
	outage      = "out of reach, says why"
	outageMute  = "out of reach"
	fromHub     = "goes on to Docker Hub"
)

// scenario is one row of the table.
type scenario struct {
	name string
	run  func(b *bench, c client) (string, error)
	want func(c client) string
}

func always(outcome string) func(client) string { return func(client) string { return outcome } }

// refusal is what a client shows when the mirror refuses: dockerd always goes
// on to Docker Hub, and an old containerd shows no more than the status.
func refusal(c client) string {
	switch {
	case strings.HasPrefix(c.name, "dockerd"):
		return fromHub
	case strings.HasPrefix(c.name, "containerd 1."):
		return refusedMute
	}
	return refused
}

// gone is the same for an outage, of which most show the reason where it comes
// with 4xx alone.
func gone(c client) string {
	switch {
	case strings.HasPrefix(c.name, "dockerd"):
		return fromHub
	case strings.HasPrefix(c.name, "containerd"), strings.HasPrefix(c.name, "crane"):
		return outage
	}
	return outageMute
}

func scenarios() []scenario {
	simple := func(image string) func(b *bench, c client) (string, error) {
		return func(b *bench, c client) (string, error) { return b.pull(c, image, 1) }
	}
	return []scenario{
		{"tag", simple("single:1"), always(pulled)},
		{"digest", func(b *bench, c client) (string, error) {
			return b.pull(c, "pinned@"+b.digests["pinned:1"].String(), 1)
		}, always(pulled)},
		{"multi-arch", simple("multi:1"), always(pulled)},
		{"docker list", simple("list:1"), always(pulled)},
		{"schema2", simple("schema2:1"), always(pulled)},
		{"large layer", simple("large:1"), always(pulled)},
		{"resume after cut", func(b *bench, c client) (string, error) {
			b.wire.cutAfter(bigLayer/2, nil)
			out, err := b.pull(c, "cut:1", 3)
			if err == nil && !b.wire.wasCut() {
				err = fmt.Errorf("the connection was not cut")
			}
			return out, err
		}, always(pulledAgain)},
		{"image not on the ledger", simple("unpublished:1"), refusal},
		{"revoked", simple("revoked:1"), refusal},
		{"mirror restarted mid-pull", func(b *bench, c client) (string, error) {
			restarted := make(chan error, 1)
			b.wire.cutAfter(bigLayer/2, func() {
				b.mirror.Kill()
				go func() { restarted <- b.mirror.Start(context.Background()) }()
			})
			out, err := b.pull(c, "restart:1", 5)
			if !b.wire.wasCut() {
				return out, fmt.Errorf("the mirror was not restarted: %w", err)
			}
			if err := <-restarted; err != nil {
				return out, err
			}
			return out, err
		}, always(pulledAgain)},
		{"peer corrupt", func(b *bench, c client) (string, error) {
			return b.pull(c, "peer-"+b.slug(c)+":1", 1)
		}, always(pulled)},
		{"disk corrupt", func(b *bench, c client) (string, error) {
			if err := flipByte(b.mirror.Blob(b.layers["disk:1"].Encoded())); err != nil {
				return "", err
			}
			return b.pull(c, "disk:1", 1)
		}, always(pulled)},
		// This is the last row, because the others need them.
		{"holders gone", func(b *bench, c client) (string, error) {
			if err := errors.Join(b.rig.Publisher.Stop(), b.other.Stop()); err != nil {
				return "", err
			}
			return b.pull(c, "gone:1", 1)
		}, gone},
	}
}

const bigLayer = 48 << 20

// bench is what all scenarios share.
type bench struct {
	t       *testing.T
	env     *env
	rig     *rig.Rig
	mirror  *rig.Node
	other   *rig.Node // a second mirror, whose disk is corrupt
	wire    *wire
	digests map[string]digest.Digest
	layers  map[string]digest.Digest
	prefix  string // of the names of a platform's images
	corrupt string // the image whose layer the second mirror has wrong
}

func TestClientMatrix(t *testing.T) {
	b := start(t)
	clients := []client{
		b.env.containerd(t, "containerd 1.6", b.env.programs, b.rig.Pyrsia, b.wire.addr, "Strict", ""),
		b.env.containerd(t, "containerd 2.4", b.env.newer, b.rig.Pyrsia, b.wire.addr, "Strict", ""),
		b.env.dockerd(t, b.rig.Pyrsia, b.wire.addr),
		b.env.containersTool(t, "podman 4.3", "podman", b.rig.Pyrsia, b.wire.addr, "Strict"),
		b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, "Strict"),
		b.env.containersTool(t, "buildah 1.28", "buildah", b.rig.Pyrsia, b.wire.addr, "Strict"),
		b.env.craneAt(t, b.wire.addr),
	}
	b.publishAll(clients)
	table := map[string][]string{}
	for _, s := range scenarios() {
		for _, c := range clients {
			got := "not run"
			t.Run(s.name+"/"+c.name, func(t *testing.T) {
				b.t = t
				if err := b.mirror.AwaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				before := b.env.hub.requests.Load()
				outcome, err := s.run(b, c)
				if n := b.env.hub.requests.Load() - before; n > 0 {
					if s.want(c) != fromHub {
						t.Errorf("%d requests went to Docker Hub", n)
					}
					outcome = fromHub
				}
				if got = outcome; err != nil {
					t.Logf("%v", err)
				}
				// What may take a second try is as good on the first.
				if want := s.want(c); got != want && !(want == pulledAgain && got == pulled) {
					t.Errorf("%s, want %s", got, want)
				}
			})
			if s.want(c) == pulledAgain && got == pulled {
				got = pulledAgain
			}
			table[s.name] = append(table[s.name], got)
		}
	}
	if t.Failed() {
		return
	}
	compareDocs(t, clients, table)
}

// fetch has a mirror store an image's layer.
func (b *bench) fetch(m *rig.Node, name string) {
	b.t.Helper()
	repository, tag, _ := strings.Cut(name, ":")
	for _, path := range []string{"manifests/" + tag, "blobs/" + b.layers[name].String()} {
		if err := rig.Get(b.t.Context(), "http://"+m.Mirror+"/v2/library/"+repository+"/"+path); err != nil {
			b.t.Fatal(err)
		}
	}
}

// pull has a client pull an image, and tells the outcome.
func (b *bench) pull(c client, image string, tries int) (string, error) {
	var failure error
	for try := range tries {
		out, got, err := c.pull(b.t.Context(), image)
		if err != nil {
			failure = fmt.Errorf("%w: %.600s", err, out)
			if strings.Contains(out, "is not on the ledger") || strings.Contains(out, "was withdrawn by the publisher") {
				return refused, failure
			}
			if strings.Contains(out, "no node that this one can reach has the content") {
				return outage, failure
			}
			if strings.Contains(out, "502 Bad Gateway") {
				return outageMute, failure
			}
			if strings.Contains(out, ": not found") || strings.Contains(out, "403 Forbidden") {
				return refusedMute, failure
			}
			time.Sleep(time.Second)
			continue
		}
		name, _, _ := strings.Cut(image, "@")
		if !strings.Contains(name, ":") {
			name += ":1"
		}
		if want, published := b.digests[name]; published && got != want.String() {
			return "other content", fmt.Errorf("%s has %s, want %s: %.600s", image, got, want, out)
		}
		if try > 0 {
			return pulledAgain, failure
		}
		return pulled, nil
	}
	return "failed", failure
}

func flipByte(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var one [1]byte
	if _, err := f.ReadAt(one[:], 5000); err != nil {
		return err
	}
	one[0] ^= 1
	_, err = f.WriteAt(one[:], 5000)
	return err
}

// compareDocs holds docs/clients.md to what was seen.
func compareDocs(t *testing.T, clients []client, table map[string][]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(docsHead)
	b.WriteString("| |")
	for _, c := range clients {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(clients)) + "\n")
	for _, s := range scenarios() {
		fmt.Fprintf(&b, "| %s | %s |\n", s.name, strings.Join(table[s.name], " | "))
	}
	b.WriteString(docsTail)
	if *update {
		if err := os.WriteFile(docsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(docsFile)
	if err != nil || string(old) != b.String() {
		t.Errorf("%s is not what was seen: write it anew by 'make test-clients UPDATE=1' (%v)", filepath.Clean(docsFile), err)
	}
}
