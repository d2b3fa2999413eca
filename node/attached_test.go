package node

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// What is attached to an image at its upstream is found at a mirror, over
// libp2p, by crane's own client: an SBOM that was there when the image was
// published, and a signature that came after.
func TestAttachmentsReachAMirror(t *testing.T) {
	addr := dockerRegistry(t).Addr
	index, d := push(t, addr, "signed:1", 100<<10)
	sbom := attach(t, addr, index, "application/vnd.example.sbom")

	publisher := newPublisher(t, addr, func(c *Config) { c.AttachmentsEvery = time.Second })
	publisher.publish(t, "docker.io/library/signed:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	subject, err := name.NewDigest(m.MirrorAddr+"/library/signed@"+d.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, subject, "", sbom)
	expect(t, subject, "application/vnd.example.signature")

	signature := attach(t, addr, index, "application/vnd.example.signature")
	for end := time.Now().Add(testTimeout); publisher.ledger.Size() < 2; time.Sleep(100 * time.Millisecond) {
		if _, err := publisher.control.Resolve(t.Context(), control.ResolveRequest{Image: "docker.io/library/signed:1"}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("the publisher does not find what came after the image")
		}
	}
	m.awaitBlocks(t, 2)
	expect(t, subject, "", sbom, signature)
	expect(t, subject, "application/vnd.example.signature", signature)
	expect(t, subject, "application/vnd.example.sbom", sbom)
}

// A mirror that cannot know what is attached says so: by 404 clients would take
// it for nothing.
func TestAttachmentsThatCannotBeReadAreNotNone(t *testing.T) {
	addr := dockerRegistry(t).Addr
	index, d := push(t, addr, "signed:1", 10<<10)
	attach(t, addr, index, "application/vnd.example.sbom")
	publisher := newPublisher(t, addr)
	publisher.publish(t, "docker.io/library/signed:1")
	block, err := publisher.ledger.Entry(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	if err := publisher.store.Remove(t.Context(), block.Artifact.Pieces); err != nil {
		t.Fatal(err)
	}
	resp, body := m.ask(t, http.MethodGet, "/v2/library/signed/referrers/"+d.String())
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), "is on the ledger, but no node") {
		t.Errorf("%s: %s", resp.Status, body)
	}
}

// attach pushes an artifact whose subject is an index; for a registry without a
// referrers API it keeps the tag sha256-HEX (OCI distribution-spec 1.1).
func attach(t *testing.T, addr string, index v1.ImageIndex, artifactType string) v1.Image {
	t.Helper()
	subject, err := partial.Descriptor(index)
	if err != nil {
		t.Fatal(err)
	}
	content, err := random.Layer(10<<10, types.MediaType(artifactType+".layer"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(artifactType)), content)
	if err != nil {
		t.Fatal(err)
	}
	image = mutate.Subject(image, *subject).(v1.Image)
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(fmt.Sprintf("%s/library/signed@%s", addr, d), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return image
}

// expect asks for the referrers of a type, all if it is empty, and pulls each.
func expect(t *testing.T, subject name.Digest, artifactType string, want ...v1.Image) {
	t.Helper()
	options := []remote.Option{remote.WithContext(t.Context())}
	if artifactType != "" {
		options = append(options, remote.WithFilter("artifactType", artifactType))
	}
	referrers, err := remote.Referrers(subject, options...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := referrers.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != len(want) {
		t.Fatalf("%d referrers of type %q, want %d: %+v", len(list.Manifests), artifactType, len(want), list.Manifests)
	}
	for _, image := range want {
		d, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(subject.Context().Digest(d.String()), options...)
		if err != nil {
			t.Errorf("referrer %s: %v", d, err)
			continue
		}
		layers, err := got.Layers()
		if err != nil || len(layers) != 1 {
			t.Errorf("referrer %s: %d layers, %v", d, len(layers), err)
			continue
		}
		content, err := layers[0].Compressed() // checks the digest
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err != nil {
			t.Errorf("the content of referrer %s: %v", d, err)
		}
	}
}
