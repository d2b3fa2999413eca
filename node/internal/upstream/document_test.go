package upstream

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

// What registries really send is read as before.
func TestDocumentsAreRead(t *testing.T) {
	const (
		dockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
		index      = `{"schemaVersion":2,"manifests":[],"annotations":{"Layers":"a","layers":"b"}}`
		image      = `{"schemaVersion":2,"config":{},"layers":[],"os":1}`
	)
	with := func(mediaType, doc string) string {
		return strings.Replace(doc, `2,`, `2,"mediaType":"`+mediaType+`",`, 1)
	}
	for _, c := range []struct{ doc, header, want string }{
		{index, "", upstreamtest.OCIIndex},
		{image, "", upstreamtest.OCIManifest},
		{index, upstreamtest.OCIIndex, upstreamtest.OCIIndex},
		{with(dockerList, index), dockerList, dockerList},
		{with(dockerList, index), dockerList + "; charset=utf-8", dockerList},
		{with(upstreamtest.OCIIndex, index), "application/octet-stream", upstreamtest.OCIIndex}, // says nothing
		{with(upstreamtest.OCIIndex, index), "application/json", upstreamtest.OCIIndex},
	} {
		m, err := parseManifest(digest.FromString(c.doc), []byte(c.doc), c.header)
		if err != nil || m.MediaType != c.want {
			t.Errorf("%s with Content-Type %q: %+v, %v, want %s", c.doc, c.header, m, err, c.want)
		}
	}
	if _, err := parseManifest(digest.FromString(""), []byte(strings.Repeat(`{"a":`, 1<<20)), ""); err == nil {
		t.Error("a million levels are read")
	}
}

// Whatever comes in place of a manifest is read or refused; what is read has no
// key that a careless reader would take for another.
func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[],"annotations":{"Layers":"a"}}`), upstreamtest.OCIIndex)
	f.Add([]byte(`{"config":{"digest":"a","d\u0069gest":"b"}}`), "")
	f.Fuzz(func(t *testing.T, data []byte, header string) {
		m, err := parseManifest(digest.FromBytes(data), data, header)
		if err == nil && m.MediaType == "" {
			t.Errorf("%q has no media type", data)
		}
	})
}
