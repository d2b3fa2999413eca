package attacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

const backdoor = "CVE-2026-0001: it has a backdoor"

// A withdrawn image must not come back, whatever its tag does, under whichever
// name it is asked for, and on whichever mirror.
//
// The attacker may push to the repository at the registry, or create Artifacts.
func TestWithdrawnComesBack(t *testing.T) {
	a := newWithdrawal(t)
	t.Log("The publisher records app:1. It has a backdoor, as is found out later. A mirror serves it to everyone.")
	bad, height := a.publish("app:1", a.bad)
	a.served("app:1", "/v2/library/app/manifests/1")

	t.Log("The administrator withdraws it. The mirrors have the news.")
	a.withdraw("app:1", bad, height)
	a.refused("the image, by its tag", "/v2/library/app/manifests/1")

	t.Log("First try: the attacker moves the tag to a harmless image, which is published, and then back.")
	a.publish("app:1", a.good)
	a.tryPublish("app:1", "the tag has come back")
	t.Log("Second try: he gives the same image another tag.")
	a.tryPublish("app:2", "another tag")
	t.Log("Third try: he writes the registry's other name.")
	a.tryPublish("registry-1.docker.io/library/app:2", "the registry's other name")

	t.Log("Now everyone pulls, by each name that the image ever had.")
	digests := a.parts(a.bad)
	a.refused("the image, by the tag that came back", "/v2/library/app/manifests/1", a.digest(a.good))
	a.refused("the image, by the other tag", "/v2/library/app/manifests/2")
	a.refused("the image, by its digest", "/v2/library/app/manifests/"+bad.String())
	a.refused("the image, by its digest and the registry's other name", "/v2/library/app/manifests/"+bad.String()+"?ns=registry-1.docker.io")
	a.refused("its config", "/v2/library/app/blobs/"+digests["config"].String())
	a.refused("its layer", "/v2/library/app/blobs/"+digests["layer"].String())
	for _, node := range []*rig.Node{a.mirror, a.Publisher} {
		for what, d := range digests {
			a.withheld(node, what, d)
		}
	}
	t.Log("What it shares with an image that stands is served: the base layer.")
	a.served("the base layer", "/v2/library/app/blobs/"+digests["base"].String())

	t.Log("The administrator restores the image: it was a false alarm. It is published again, and served.")
	if _, err := a.Publisher.Control.Restore(t.Context(), control.RestoreRequest{Image: "app:1", Digest: bad.String(), Reason: "a false alarm"}); err != nil {
		t.Fatalf("restoring it: %v", err)
	}
	if _, height, err := a.Publish(t.Context(), "app:1"); err != nil {
		t.Fatalf("publishing it again: %v", err)
	} else if err := a.mirror.AwaitBlock(t.Context(), height); err != nil {
		t.Fatal(err)
	}
	a.served("app:1", "/v2/library/app/manifests/1")
	a.served("the image, by its digest", "/v2/library/app/manifests/"+bad.String())
	a.served("its layer", "/v2/library/app/blobs/"+digests["layer"].String())
}

// withdrawal is the scene of the attack.
type withdrawal struct {
	*rig.Rig
	t         *testing.T
	mirror    *rig.Node
	old       *rig.Node // a mirror of an earlier release; nil: none was given
	bad, good v1.Image  // they share a base layer
}

func newWithdrawal(t *testing.T) *withdrawal {
	t.Helper()
	a := &withdrawal{Rig: network(t), t: t}
	base, err := random.Image(1<<10, 1)
	if err != nil {
		t.Fatal(err)
	}
	layers := make([]v1.Layer, 2)
	for i := range layers {
		if layers[i], err = random.Layer(1<<10, types.DockerLayer); err != nil {
			t.Fatal(err)
		}
	}
	var err1, err2 error
	a.bad, err1 = mutate.AppendLayers(base, layers[0])
	a.good, err2 = mutate.AppendLayers(base, layers[1])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if a.mirror, err = a.StartMirror(t.Context(), "mirror"); err != nil {
		t.Fatal(err)
	}
	if old := os.Getenv("PYRSIA_OLD_BINARY"); old != "" {
		current := a.Pyrsia
		a.Pyrsia = old
		if a.old, err = a.StartMirror(t.Context(), "old-mirror"); err != nil {
			t.Fatal(err)
		}
		a.Pyrsia = current
		t.Log("A mirror of an earlier release follows the same ledger.")
	}
	return a
}

func (a *withdrawal) digest(image v1.Image) digest.Digest {
	a.t.Helper()
	d, err := image.Digest()
	if err != nil {
		a.t.Fatal(err)
	}
	return digest.Digest(d.String())
}

// parts are what the bad image consists of.
func (a *withdrawal) parts(image v1.Image) map[string]digest.Digest {
	a.t.Helper()
	config, err1 := image.ConfigName()
	manifest, err2 := image.Manifest()
	if err := errors.Join(err1, err2); err != nil {
		a.t.Fatal(err)
	}
	return map[string]digest.Digest{
		"manifest": a.digest(image), "config": digest.Digest(config.String()),
		"base": digest.Digest(manifest.Layers[0].Digest.String()), "layer": digest.Digest(manifest.Layers[1].Digest.String()),
	}
}

func (a *withdrawal) mirrors() []*rig.Node {
	if a.old == nil {
		return []*rig.Node{a.mirror}
	}
	return []*rig.Node{a.mirror, a.old}
}

// publish has an image pushed and published, and waits for the mirrors.
func (a *withdrawal) publish(name string, image v1.Image) (digest.Digest, int64) {
	a.t.Helper()
	if err := a.Push(a.t.Context(), name, image); err != nil {
		a.t.Fatal(err)
	}
	d, height, err := a.Publish(a.t.Context(), name)
	if err != nil {
		a.t.Fatal(err)
	}
	a.await(height)
	return d, height
}

func (a *withdrawal) await(height int64) {
	a.t.Helper()
	for _, m := range a.mirrors() {
		if err := m.AwaitBlock(a.t.Context(), height); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *withdrawal) withdraw(name string, d digest.Digest, height int64) {
	a.t.Helper()
	resp, err := a.Publisher.Control.Revoke(a.t.Context(), control.RevokeRequest{Image: name, Digest: d.String(), Block: height, Reason: backdoor})
	if err != nil {
		a.t.Fatal(err)
	}
	a.await(resp.Block.Height)
}

// tryPublish has the bad image published under a name: it must be refused.
func (a *withdrawal) tryPublish(name, what string) {
	a.t.Helper()
	repository := name[strings.LastIndexByte(name, '/')+1:]
	if err := a.Push(a.t.Context(), repository, a.bad); err != nil {
		a.t.Fatal(err)
	}
	_, height, err := a.Publish(a.t.Context(), name)
	refusal, ok := errors.AsType[*control.Error](err)
	switch {
	case err == nil:
		a.t.Errorf("CAME BACK: %s: the publisher records the withdrawn image again, in block %d", what, height)
		a.await(height)
	case ok && strings.Contains(refusal.Message, backdoor):
		a.t.Logf("The publisher refuses: %s", refusal.Message)
	default:
		a.t.Errorf("%s: the publisher refuses, and does not say why: %v", what, err)
	}
}

func (a *withdrawal) served(what, path string) {
	a.t.Helper()
	if status, body := a.get("http://" + a.mirror.Mirror + path); status != http.StatusOK {
		a.t.Errorf("%s is not served: %d %.300s", what, status, body)
	}
}

// refused pulls from all mirrors: each must refuse, and say why, or give the
// harmless image.
func (a *withdrawal) refused(what, path string, harmless ...digest.Digest) {
	a.t.Helper()
	for _, m := range a.mirrors() {
		status, body := a.get("http://" + m.Mirror + path)
		switch {
		case status == http.StatusOK && len(harmless) > 0 && digest.FromString(body) == harmless[0]:
			a.t.Logf("%s gets %s: the harmless one, its tag's newest block.", m.Name, what)
		case status == http.StatusOK:
			a.t.Errorf("CAME BACK: %s serves %s", m.Name, what)
		case m == a.mirror && !strings.HasSuffix(path, "/manifests/2") && !strings.Contains(body, backdoor):
			a.t.Errorf("%s refuses %s, and does not say why: %d %.300s", m.Name, what, status, body)
		default:
			a.t.Logf("%s refuses %s: %d", m.Name, what, status)
		}
	}
}

// withheld asks a node for content by its digest alone, as peers do.
func (a *withdrawal) withheld(node *rig.Node, what string, d digest.Digest) {
	a.t.Helper()
	if what == "base" {
		return
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second) // a node looks for layers once a second
	defer cancel()
	for {
		status, body := a.get("http://" + node.Open + "/blobs/sha256/" + d.Encoded())
		if status != http.StatusOK {
			a.t.Logf("%s hands its %s to no peer: %.200s", node.Name, what, strings.TrimSpace(body))
			return
		}
		select {
		case <-ctx.Done():
			a.t.Errorf("CAME BACK: %s hands its %s to everyone who knows the digest", node.Name, what)
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *withdrawal) get(url string) (int, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Sprint(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, fmt.Sprint(err)
	}
	return resp.StatusCode, string(body)
}
