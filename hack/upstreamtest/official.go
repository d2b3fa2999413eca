package upstreamtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// OfficialEnv names a checkout of docker-library/official-images.
const OfficialEnv = "PYRSIA_OFFICIAL_IMAGES"

// Official is the catalog of official images, with an upstream that has a
// small generated image for each build of it. It serves the archive of the
// catalog too, at /catalog.tar.gz.
type Official struct {
	*Registry
	Archive []byte          // .tar.gz of the library/ files
	Tags    []string        // "alpine:3.20", sorted
	Missing map[string]bool // tags that the upstream does not have
	Corrupt map[string]bool // tags of images with a corrupt layer
}

// SHA256 is that of the archive, in hexadecimal.
func (o *Official) SHA256() string { return fmt.Sprintf("%x", sha256.Sum256(o.Archive)) }

// ServeHTTP implements http.Handler.
func (o *Official) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/catalog.tar.gz" {
		_, _ = w.Write(o.Archive)
		return
	}
	o.Registry.ServeHTTP(w, r)
}

// Trouble makes 1 % of the requests fail for once, and every throttleEvery-th
// one be asked to wait a second.
func (o *Official) Trouble(throttleEvery int) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	n := 0
	o.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		n++
		limited, failing := n%throttleEvery == 0, random.IntN(100) == 0
		mu.Unlock()
		switch {
		case limited:
			o.Throttle(w, 1)
		case failing:
			o.Fail(w)
		}
		return limited || failing
	}
}

// Move lets n tags point to new images.
func (o *Official) Move(n int) {
	for i, moved := 1, 0; moved < n; i += 7 {
		tag := o.Tags[i]
		if o.Missing[tag] || o.Corrupt[tag] {
			continue
		}
		repository, name := split(tag)
		o.Tag(repository, name, o.AddIndex(o.build("moved "+tag, []string{"amd64"})...))
		moved++
	}
}

// LoadOfficial reads the library/ files, and fills the upstream. So many tags
// are missing, and so many have a corrupt layer.
func LoadOfficial(dir string, missing, corrupt int) (*Official, error) {
	o := &Official{Registry: New(), Missing: map[string]bool{}, Corrupt: map[string]bool{}}
	files, err := os.ReadDir(filepath.Join(dir, "library"))
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	tw := tar.NewWriter(zw)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, "library", f.Name()))
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Name: "official-images/library/" + f.Name(), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := tw.Write(data); err != nil {
			return nil, err
		}
		o.addRepository(f.Name(), string(data))
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return nil, err
	}
	o.Archive = packed.Bytes()
	slices.Sort(o.Tags)
	// Spread over the whole list, and the same in each run.
	for i := range missing {
		tag := o.Tags[(2*i+1)*len(o.Tags)/(2*missing)]
		o.Missing[tag] = true
		repository, name := split(tag)
		o.Tag(repository, name, digest.FromString("no such image"))
	}
	for i := range corrupt {
		tag := o.Tags[i*len(o.Tags)/corrupt]
		o.Corrupt[tag] = true
		layer := []byte("a layer of " + tag)
		d := o.AddIndex(o.AddImage(Platform{OS: "linux", Architecture: "amd64"}, tag, layer))
		o.AddAs(digest.FromBytes(layer), OCILayer, bytes.Repeat([]byte("X"), len(layer)))
		repository, name := split(tag)
		o.Tag(repository, name, d)
	}
	return o, nil
}

// split takes "alpine:3.20" apart, as the upstream names it.
func split(tag string) (repository, name string) {
	repository, name, _ = strings.Cut(tag, ":")
	return "library/" + repository, name
}

// addRepository makes the images of one library/ file: one manifest for each
// build and architecture, and an index for each set of builds that share tags.
func (o *Official) addRepository(repository, file string) {
	shared := map[string][]Descriptor{}
	for n, stanza := range stanzas(file) {
		builds := o.build(fmt.Sprintf("%s build %d", repository, n), list(stanza["Architectures"]))
		tags := list(stanza["Tags"])
		if len(tags) > 0 {
			index := o.AddIndex(builds...)
			for _, tag := range tags {
				o.Tag("library/"+repository, tag, index)
				o.Tags = append(o.Tags, repository+":"+tag)
			}
		}
		for _, tag := range list(stanza["SharedTags"]) {
			shared[tag] = append(shared[tag], builds...)
		}
	}
	for tag, builds := range shared {
		o.Tag("library/"+repository, tag, o.AddIndex(builds...))
		o.Tags = append(o.Tags, repository+":"+tag)
	}
}

func (o *Official) build(name string, architectures []string) (out []Descriptor) {
	if len(architectures) == 0 {
		architectures = []string{"amd64"}
	}
	for _, arch := range architectures {
		id := name + " for " + arch
		out = append(out, o.AddImage(OfficialPlatform(arch), id, []byte(strings.Repeat(id+"\n", 20))))
	}
	return out
}

// stanzas reads the stanzas with tags: a second reading of the format, apart
// from the publisher's own.
func stanzas(file string) (out []map[string]string) {
	global := map[string]string{}
	var lines []string
	for line := range strings.Lines(file) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	unfolded := strings.NewReplacer("\n ", " ", "\n\t", " ").Replace(strings.Join(lines, "\n"))
	for block := range strings.SplitSeq(unfolded, "\n\n") {
		stanza := map[string]string{"Architectures": global["Architectures"]}
		for line := range strings.Lines(block) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				stanza[name] = strings.TrimSpace(value)
			}
		}
		if stanza["Tags"]+stanza["SharedTags"] == "" {
			global["Architectures"] = stanza["Architectures"]
			continue
		}
		out = append(out, stanza)
	}
	return out
}

func list(s string) (out []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
