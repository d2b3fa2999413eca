package main

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// A proof in an Artifact that was made before the key was rotated proves nothing
// by itself: a node makes another, which the newest key has signed.
func TestVerifyAfterARotation(t *testing.T) {
	api, kubeconfig := apiServer(t)
	path, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	oldSkey, oldKey, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	newSkey, newKey, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	const image = "docker.io/library/alpine:3.20"
	d := digest.FromString("image")
	var block *ledger.Entry
	var proof []byte
	var w *replica.Writer
	for _, keys := range []string{oldSkey, oldSkey + "\n" + newSkey, newSkey} {
		if w != nil {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if w, err = replica.OpenWriter(t.Context(), path, keys, quiet); err != nil {
			t.Fatal(err)
		}
		if block == nil {
			height, err := w.Append(t.Context(), entry(image, d, ledger.Platform{Platform: "linux/amd64", Digest: digest.FromString("m"), Config: digest.FromString("c"), Size: 1}))
			if err != nil {
				t.Fatal(err)
			}
			if block, proof, err = w.Block(t.Context(), height); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer w.Close()
	node := httptest.NewServer(w.Handler())
	defer node.Close()

	publisher := new(v1alpha1.PyrsiaNode)
	if err := api.Get(t.Context(), kube.ObjectKey{Namespace: "default", Name: "publisher"}, publisher); err != nil {
		t.Fatal(err)
	}
	publisher.Status.Ledger = &v1alpha1.LedgerStatus{Key: oldKey, NewestKey: newKey}
	art := &v1alpha1.Artifact{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "alpine"}}
	art.Spec = v1alpha1.ArtifactSpec{Image: image, Digest: d.String(), PublisherRef: v1alpha1.LocalReference{Name: "publisher"}}
	if err := api.Create(t.Context(), art); err != nil {
		t.Fatal(err)
	}
	art.Status.Block = &v1alpha1.Block{Height: block.Height, Entry: string(block.Data), Proof: string(proof)}
	for _, obj := range []kube.Object{publisher, art} {
		if err := api.Status().Update(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(what string, flags ...string) (string, error) {
		return runPlugin(t, node.URL, append([]string{"--kubeconfig", kubeconfig, "-n", "default", "verify", what}, flags...)...)
	}
	for _, what := range []string{"alpine:3.20", "127.0.0.1:5001/library/alpine:3.20", "alpine@" + d.String(), d.String(), digest.FromString("c").Encoded()} {
		if out, err := verify(what); err != nil || !strings.Contains(out, "verified: "+image+"@"+d.String()) {
			t.Errorf("%s after the rotation: %v\n%s", what, err, out)
		}
	}
	for what, says := range map[string]string{"alpine:3.19@" + d.String(): "no Artifact", digest.FromString("other").String(): "no Artifact", d.Encoded()[:12]: "all digits", "alpine 3.20": "more than one word"} {
		if out, err := verify(what); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q\n%s", what, err, says, out)
		}
	}
	// As everywhere in kubectl.
	if out, err := verify("alpine:3.20", "-n", "elsewhere"); err == nil || !strings.Contains(err.Error(), "no Artifact in namespace elsewhere") {
		t.Errorf("in another namespace: %v\n%s", err, out)
	}
	for flags, want := range map[string]string{
		"-n elsewhere -A":                        "(Artifact default/alpine)",
		"-n elsewhere -A -o jsonpath={[0].name}": "alpine",
		"-o yaml":                                "- block: 0\n",
		"-o wide":                                "(Artifact default/alpine)",
	} {
		if out, err := verify("alpine:3.20", strings.Fields(flags)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, want %q in\n%s", flags, err, want, out)
		}
	}
	// What was pulled names the node that has looked it up.
	pulled := &v1alpha1.Artifact{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pulled"}}
	pulled.Spec = v1alpha1.ArtifactSpec{Image: image, Digest: d.String(), NodeRef: v1alpha1.LocalReference{Name: "publisher"}}
	if err := api.Create(t.Context(), pulled); err != nil {
		t.Fatal(err)
	}
	pulled.Status.Block = art.Status.Block.DeepCopy()
	if err := api.Status().Update(t.Context(), pulled); err != nil {
		t.Fatal(err)
	}
	if out, err := verify("alpine:3.20", "-o", "wide"); err != nil || !strings.Contains(out, "(Artifact default/pulled)") {
		t.Errorf("of what was pulled: %v\n%s", err, out)
	}
	pulled.Status.Revocation = &v1alpha1.Block{Height: 7, Entry: "{}", Proof: "x"}
	if err := api.Status().Update(t.Context(), pulled); err != nil {
		t.Fatal(err)
	}
	out, err := verify("alpine:3.20")
	if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitFound || !strings.Contains(out, "since withdrawn by block 7") {
		t.Errorf("of what is withdrawn: %v\n%s", err, out)
	}
	// A node that shows another ledger proves nothing.
	_, foreign, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := verify("alpine:3.20", "--key", foreign); err == nil {
		t.Errorf("by a key that signed nothing:\n%s", out)
	}
}
