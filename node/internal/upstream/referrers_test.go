package upstream

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

func TestPlatformsComeWithTheirAttestations(t *testing.T) {
	w := newEnv(t)
	one, two := w.AddImage(amd64, "a", []byte("one")), w.AddImage(arm64, "a", []byte("two"))
	attestation := func(of upstreamtest.Descriptor) upstreamtest.Descriptor {
		d := w.AddImage(upstreamtest.Platform{OS: "unknown", Architecture: "unknown"}, "attestation of "+of.Digest.String(), []byte("sbom "+of.Digest))
		d.Annotations = map[string]string{annotationSubject: of.Digest.String(), "vnd.docker.reference.type": "attestation-manifest"}
		return d
	}
	w.Tag("library/a", "1", w.AddIndex(one, two, attestation(one), attestation(two)))
	all, err := w.copy(t, "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Platforms) != 4 {
		t.Errorf("all: %+v", all.Platforms)
	}
	some, err := w.copy(t, "a:1", "linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range some.Platforms {
		got = append(got, p.Platform)
	}
	if diff := cmp.Diff([]string{"linux/arm64/v8", "unknown/unknown"}, got); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
	if missing, err := MissingPlatforms(t.Context(), w.store, some, []string{"linux/amd64"}); err != nil || !slices.Equal(missing, []string{"linux/amd64"}) {
		t.Errorf("missing platforms: %v, %v", missing, err)
	}
	if _, err := w.copy(t, "a:1", "linux/s390x"); kindOf(err) != NotFound {
		t.Errorf("no such platform: %v", err)
	}
	// One that is said to be for the platform that it is of is an attestation still.
	marked := w.AddImage(amd64, "marked", []byte("sbom"))
	marked.Annotations = map[string]string{annotationSubject: one.Digest.String(), annotationType: "attestation-manifest"}
	w.Tag("library/a", "2", w.AddIndex(one, marked))
	if two, err := w.copy(t, "a:2"); err != nil || len(two.Platforms) != 2 || len(two.Images()) != 1 || two.Images()[0].Digest != one.Digest {
		t.Errorf("with an attestation that has a platform: %+v, %v", two, err)
	}
}

func TestReferrersAndSignaturesComeAlong(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers API %v", api), func(t *testing.T) {
			w := newEnv(t)
			w.ReferrersAPI = api
			d := w.pushIndex("signed", "1", []byte("layer"))
			sbom := w.AddImage(upstreamtest.Platform{}, "sbom", []byte("the sbom"))
			deleted := upstreamtest.Descriptor{MediaType: upstreamtest.OCIManifest, Digest: digest.FromString("deleted"), Size: 7}
			both := upstreamtest.Descriptor{MediaType: upstreamtest.OCIIndex, Digest: w.AddIndex(w.AddImage(upstreamtest.Platform{}, "part", []byte("a part")))}
			if api {
				w.Refer(d, deleted.Digest)
				w.Refer(d, sbom.Digest)
				w.Refer(d, both.Digest)
			} else {
				w.Tag("library/signed", "sha256-"+d.Encoded(), w.AddIndex(deleted, sbom, both))
			}
			signature := w.AddImage(upstreamtest.Platform{}, "signature", []byte("the signature"))
			w.Tag("library/signed", "sha256-"+d.Encoded()+".sig", signature.Digest)
			entry, err := w.copy(t, "signed:1")
			if err != nil {
				t.Fatal(err)
			}
			data, err := w.store.ReadAll(t.Context(), entry.Pieces, pieces.MaxList)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []digest.Digest{sbom.Digest, digest.FromString("the sbom"), both.Digest, digest.FromString("a part")} {
				if !bytes.Contains(data, []byte(want)) || !w.store.Has(want) {
					t.Errorf("the referrer's %s did not come along", want)
				}
			}
			a, err := w.client.Attached(t.Context(), image(t, "signed:1"), d)
			if err != nil {
				t.Fatal(err)
			}
			if found := a.Signatures; len(found) != 1 || found[0].Digest != signature.Digest || found[0].Image.Tag != "sha256-"+d.Encoded()+".sig" {
				t.Errorf("signatures: %+v", found)
			}
		})
	}
}

// A repository that has no referrers API, or is not there, says nothing about
// the others of its registry; and what is not there may come.
func TestOneRepositorySaysNothingAboutOthersReferrers(t *testing.T) {
	w := newEnv(t)
	w.ReferrersAPI = true
	codes := map[string]string{"none": "UNSUPPORTED", "unknown": "NAME_UNKNOWN", "gone": "MANIFEST_UNKNOWN"}
	asked := map[string]int{}
	w.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		name, of, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/library/"), "/")
		if !strings.HasPrefix(of, "referrers/") {
			return false
		}
		asked[name]++
		code, fails := codes[name]
		if fails {
			rw.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(rw, `{"errors": [{"code": %q}]}`, code)
		}
		return fails
	}
	for name := range codes {
		for _, content := range []string{"first", "second"} {
			if _, err := w.client.Attached(t.Context(), image(t, name+":1"), digest.FromString(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"none": 1, "unknown": 2, "gone": 2}, asked); diff != "" {
		t.Errorf("how often each repository's referrers were asked for (-want +got):\n%s", diff)
	}
	d := w.pushIndex("signed", "1", []byte("layer"))
	sbom := w.AddImage(upstreamtest.Platform{}, "sbom", []byte("the sbom"))
	w.Refer(d, sbom.Digest)
	a, err := w.client.Attached(t.Context(), image(t, "signed:1"), d)
	if err != nil || !slices.Equal(a.Referrers, []digest.Digest{sbom.Digest}) {
		t.Errorf("referrers of another repository: %+v, %v", a, err)
	}
}
