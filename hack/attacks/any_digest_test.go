package attacks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The creator of an Artifact writes an image's name and a digest into it, and
// the operator asks the publisher for exactly that. The attacker wants all
// mirrors to serve their own image as alpine:3.20.
func TestAnyDigest(t *testing.T) {
	r := network(t)
	ctx := t.Context()
	t.Log("the upstream has library/alpine:3.20, and in the repository mallory/tool an image that the attacker has made")
	alpine := pushTo(t, r, "library/alpine:3.20")
	evil := pushTo(t, r, "mallory/tool:1")
	t.Logf("  library/alpine:3.20 is %.19s, mallory/tool:1 is %.19s", alpine, evil)

	t.Log("the attacker has his own image published under its own name, which he may: the publisher has its bytes now")
	if _, err := publish(ctx, r, control.PublishRequest{Image: "docker.io/mallory/tool:1", Digest: evil}); err != nil {
		t.Fatal(err)
	}
	mirror, err := r.StartMirror(ctx, "mirror")
	if err != nil {
		t.Fatal(err)
	}

	t.Log("the attacker creates an Artifact: image docker.io/library/alpine:3.20, digest that of mallory/tool")
	refused(t, r, control.PublishRequest{Image: "docker.io/library/alpine:3.20", Digest: evil}, control.ReasonDigestNotInRepository)
	shows(t, r, mirror, "alpine:3.20", evil)

	never := digest.FromString("never pushed anywhere").String()
	t.Log("he tries a digest that the upstream never had anywhere")
	refused(t, r, control.PublishRequest{Image: "docker.io/library/alpine:3.20", Digest: never}, control.ReasonDigestNotInRepository, control.ReasonImageNotFound)

	t.Log("he tries an older alpine, which has a hole: the same repository has it, but the tag has moved on")
	safe := pushTo(t, r, "library/alpine:3.20")
	t.Logf("  library/alpine:3.20 is now %.19s", safe)
	refused(t, r, control.PublishRequest{Image: "docker.io/library/alpine:3.20", Digest: alpine}, control.ReasonTagPointsElsewhere)
	shows(t, r, mirror, "alpine:3.20", alpine)

	t.Log("a set publishes the tag: it means what its registry says")
	d, height, err := r.Publish(ctx, "alpine:3.20")
	if err != nil {
		t.Fatal(err)
	}
	if d.String() != safe {
		t.Errorf("published as %s, want %s", d, safe)
	}
	if err := mirror.AwaitBlock(ctx, height); err != nil {
		t.Fatal(err)
	}
	if got, err := served(ctx, mirror, "alpine:3.20"); err != nil || got != safe {
		t.Errorf("the mirror serves alpine:3.20 as %s, %v, want %s", got, err, safe)
	}
	t.Logf("  the mirror serves alpine:3.20 as %.19s, block %d", safe, height)
}

// pushTo pushes a new image, and gives its digest.
func pushTo(t *testing.T, r *rig.Rig, image string) string {
	t.Helper()
	ref, err := name.NewTag(r.Registry.Addr+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	var content v1.Image
	if content, err = random.Image(1<<10, 1); err == nil {
		err = remote.Write(ref, content, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatalf("pushing %s: %v", image, err)
	}
	d, err := content.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// publish asks for a publication, as the operator does for an Artifact.
func publish(ctx context.Context, r *rig.Rig, req control.PublishRequest) (*control.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		resp, err := r.Publisher.Control.Publish(ctx, req)
		if err != nil || resp.Block != nil {
			if err != nil {
				return nil, err
			}
			return resp.Block, nil
		}
	}
}

// refused has a publication refused for one of these reasons.
func refused(t *testing.T, r *rig.Rig, req control.PublishRequest, reasons ...control.Reason) {
	t.Helper()
	block, err := publish(t.Context(), r, req)
	if err == nil {
		entry, perr := ledger.ParseEntry([]byte(block.Entry))
		if perr != nil {
			t.Fatal(perr)
		}
		t.Errorf("  PUBLISHED: block %d of the ledger says that %s is %.19s, of upstream %s", block.Height, entry.Artifact, entry.Digest, entry.Upstream)
		return
	}
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok {
		t.Fatal(err)
	}
	t.Logf("  refused: %s", refusal)
	for _, want := range reasons {
		if refusal.Reason == want {
			return
		}
	}
	t.Errorf("  refused with %s, want %v", refusal.Reason, reasons)
}

// shows fails if a mirror with the whole ledger serves an image with a digest.
func shows(t *testing.T, r *rig.Rig, mirror *rig.Node, image, evil string) {
	t.Helper()
	status, err := r.Publisher.Control.Status(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ledger.VerifyCheckpoint(v, []byte(status.Ledger.Checkpoint))
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.AwaitBlock(t.Context(), c.Tree.N-1); err != nil {
		t.Fatal(err)
	}
	got, err := served(t.Context(), mirror, image)
	switch {
	case err != nil:
		t.Logf("  the mirror does not serve %s: %v", image, err)
	case got == evil:
		t.Errorf("  SERVED: the mirror answers %s with %.19s, what the attacker asked for", image, got)
	default:
		t.Logf("  the mirror answers %s with %.19s", image, got)
	}
}

// served is the digest with which a mirror answers a tag.
func served(ctx context.Context, mirror *rig.Node, image string) (string, error) {
	repository, tag, _ := strings.Cut(image, ":")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/v2/library/%s/manifests/%s?ns=docker.io", mirror.Mirror, repository, tag), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "*/*")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return resp.Header.Get("Docker-Content-Digest"), nil
}
