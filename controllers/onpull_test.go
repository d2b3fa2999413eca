package controllers_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

// A publisher that may publish on pull fetches an image once, however many
// clients ask for it, publishes and serves it; the operator shows it as an
// Artifact. It keeps to its list, and no client waits for ever.
func TestPublicationOnPull(t *testing.T) {
	c, ns := ownNamespace(t)
	r := upstreamtest.New()
	platform := upstreamtest.Platform{OS: "linux", Architecture: "amd64"}
	digests := map[string]string{}
	for _, repository := range []string{"alpine", "slow", "secret"} {
		d := r.AddImage(platform, repository, []byte("layer 1 of "+repository), []byte("layer 2 of "+repository))
		r.Tag("library/"+repository, "1", d.Digest)
		digests[repository] = d.Digest.String()
	}
	release := make(chan struct{})
	r.Fault = func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "slow/blobs/") {
			<-release
		}
		return false
	}
	server := httptest.NewServer(r)
	defer server.Close()
	publisher := publisherNode(ns, server.URL)
	publisher.Spec.Publisher.OnPull = &v1alpha1.OnPull{Policy: v1alpha1.OnPullPublish, Allow: []string{"alpine:*", "slow:*"}, PerHour: 2}
	c.create(t, publisher)
	p := c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	registry := net.JoinHostPort(p.ip, strconv.Itoa(desired.PortMirror))

	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() { pullWhole(t, registry+"/library/alpine:1", digests["alpine"]) })
	}
	clients.Wait()
	if got := r.Counts(); got.Manifests != 1 || got.Blobs != 3 {
		t.Errorf("eight clients had the upstream asked for %d manifests and %d blobs", got.Manifests, got.Blobs)
	}
	art := c.artifact(t, ns, "docker.io/library/alpine:1", digests["alpine"])
	c.awaitCurrent(t, art)
	c.awaitPulled(t, art, time.Time{})
	if art.Spec.NodeRef.Name != publisher.Name || art.Status.LastPulled == nil {
		t.Errorf("the Artifact of what was pulled: %+v", art)
	}

	before := r.Counts()
	if code, _ := ask(t, registry, "secret", "1"); code != http.StatusNotFound {
		t.Errorf("an image that is not on the list: %d", code)
	}
	if after := r.Counts(); after != before {
		t.Errorf("an image that is not on the list had the upstream asked: %+v, before %+v", after, before)
	}

	code, again := ask(t, registry, "slow", "1")
	if code != http.StatusServiceUnavailable || again == "" {
		t.Errorf("an image that takes long: %d, Retry-After %q", code, again)
	}
	close(release)
	pullWhole(t, registry+"/library/slow:1", digests["slow"])
	if got := r.Counts(); got.Manifests != 2 || got.Blobs != 6 {
		t.Errorf("the work did not go on: %d manifests and %d blobs", got.Manifests, got.Blobs)
	}

	r.Tag("library/alpine", "2", r.AddImage(platform, "one more", []byte("one more")).Digest)
	if code, again := ask(t, registry, "alpine", "2"); code != http.StatusServiceUnavailable || again == "" {
		t.Errorf("the third image in an hour: %d, Retry-After %q", code, again)
	}
}

// pullWhole pulls an image as crane does, and checks every byte.
func pullWhole(t *testing.T, image, digest string) {
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Error(err)
		return
	}
	img, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err == nil {
		_, err = img.RawConfigFile()
	}
	if err == nil {
		err = readLayers(img)
	}
	if err != nil {
		t.Errorf("pulling %s: %v", image, err)
		return
	}
	if got, err := img.Digest(); err != nil || got.String() != digest {
		t.Errorf("%s is %s, want %s (%v)", image, got, digest, err)
	}
}

// readLayers reads all layers, whose digests the library checks at their end.
func readLayers(img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		content, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

func ask(t *testing.T, registry, repository, tag string) (code int, retryAfter string) {
	t.Helper()
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get(fmt.Sprintf("http://%s/v2/library/%s/manifests/%s", registry, repository, tag))
	must(t, err)
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After")
}
