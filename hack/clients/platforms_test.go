package clients

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// resultsFile is what was seen when the platforms ran; docs/platforms.md is made of it.
const resultsFile = "testdata/platforms.json"

// puller pulls an image by its whole name, and shows what the runtime says of it then, in
// which there is the digest of the image or of its layer. An error is what the user
// is shown.
type puller func(ctx context.Context, image string) (shows string, err error)

// platform is a container runtime that people have, as it is set up: a row.
type platform struct {
	name   string // with its version
	setUp  string
	strict bool // no registry may be asked, whatever happens
	inCI   bool // its programs are built for other tests too
	lazy   bool // its images are made for stargz-snapshotter
	start  func(t *testing.T, b *bench) puller
}

// seen is what became of a pull: the outcome, and what the user was shown of a failure.
type seen struct {
	Outcome string `json:"outcome"`
	Text    string `json:"text,omitempty"`
}

func (s seen) String() string {
	if s.Text == "" {
		return s.Outcome
	}
	return s.Outcome + ": " + s.Text
}

// result is what was seen of a platform.
type result struct {
	Cells map[string]seen `json:"cells"` // by column
	Asked int64           `json:"asked"` // requests to registries
}

// column is something that happens to a mirror and its clients.
type column struct {
	name  string
	means string
	run   func(b *bench, pull puller) seen
}

const (
	hubLibrary  = "docker.io/library/"
	quayLibrary = "quay.io/library/"
	afterCut    = "mirror restarted"
	layerToCut  = 48 << 20
)

func columns() []column {
	simple := func(name string) func(b *bench, pull puller) seen {
		return func(b *bench, pull puller) seen { return b.try(pull, hubLibrary+b.prefix+name) }
	}
	return []column{
		{"by tag", "`docker.io/library/NAME:TAG`.", simple("single:1")},
		{"by digest", "`docker.io/library/NAME@sha256:...`.", func(b *bench, pull puller) seen {
			return b.try(pull, hubLibrary+b.prefix+"pinned@"+b.digests[b.prefix+"pinned:1"].String())
		}},
		{"not on the ledger", "the registry has it.", simple("unpublished:1")},
		{"withdrawn", "the publisher has withdrawn its digest; the registry has it.", simple("revoked:1")},
		{"corrupt peer", "one of the two peers that have it has a flipped byte in its layer.", func(b *bench, pull puller) seen { return b.try(pull, hubLibrary+b.corrupt) }},
		{"mirror down", "its port refuses connections.", func(b *bench, pull puller) seen {
			b.wire.close()
			defer b.openWire()
			return b.try(pull, hubLibrary+b.prefix+"later:1")
		}},
		{afterCut, "it is killed in the middle of a layer, and started two seconds later: what becomes of that pull.", func(b *bench, pull puller) seen {
			up := make(chan error, 1)
			b.wire.callAfter(layerToCut/2, func() {
				b.wire.close()
				b.mirror.Kill()
				go func() {
					time.Sleep(2 * time.Second) // or it depends on the moment what becomes of pulls
					up <- errors.Join(b.mirror.Start(context.Background()), b.wire.open())
				}()
			})
			got := b.try(pull, hubLibrary+b.prefix+"restart:1")
			b.awaitCut(up, got)
			return got
		}},
		{"second pull after a failure", "it is killed in the middle of a layer, and started when the pull has failed: what becomes of the next pull.", func(b *bench, pull puller) seen {
			killed := make(chan error, 1)
			b.wire.callAfter(layerToCut/2, func() {
				b.wire.close()
				b.mirror.Kill()
				killed <- nil
			})
			got := b.try(pull, hubLibrary+b.prefix+"second:1")
			b.awaitCut(killed, got)
			if err := errors.Join(b.mirror.Start(b.t.Context()), b.mirror.AwaitReady(b.t.Context())); err != nil {
				b.t.Fatal(err)
			}
			b.openWire()
			if got.Outcome != denied {
				return got // there were no failures
			}
			return b.try(pull, hubLibrary+b.prefix+"second:1")
		}},
		{"other registry", "`quay.io/NAME:TAG`, which is on the ledger.", func(b *bench, pull puller) seen { return b.try(pull, quayLibrary+b.prefix+"other:1") }},
		{"by the mirror's name", "the same as `127.0.0.1:5001/quay.io/NAME:TAG`.", func(b *bench, pull puller) seen {
			return b.try(pull, b.wire.addr+"/"+quayLibrary+b.prefix+"other:1")
		}},
	}
}

// openWire lets clients in again.
func (b *bench) openWire() {
	if err := b.wire.open(); err != nil {
		b.t.Fatal(err)
	}
}

// awaitCut waits until what was to happen in the middle of a layer has happened.
func (b *bench) awaitCut(happened chan error, got seen) {
	b.t.Helper()
	if !b.wire.wasCut() {
		b.wire.callAfter(-1, nil)
		b.t.Fatalf("the pull was over before the middle of the layer: %s", got)
	}
	if err := <-happened; err != nil {
		b.t.Fatal(err)
	}
}

// try has a puller pull an image.
func (b *bench) try(pull puller, ref string) seen {
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*time.Minute)
	defer cancel()
	before := b.env.hub.requests.Load()
	shows, err := pull(ctx, ref)
	asked := b.env.hub.requests.Load() - before
	name, _, pinned := strings.Cut(path.Base(ref), "@")
	if pinned {
		name += ":1"
	}
	switch {
	case err != nil && asked > 0:
		return seen{denied + " after the registry was asked", b.plain(err.Error())}
	case err != nil:
		return seen{denied, b.plain(err.Error())}
	case asked > 0:
		return seen{Outcome: fallsThrough}
	case !b.has(shows, name):
		return seen{"other content", b.plain(shows)}
	}
	return seen{Outcome: served}
}

// has tells whether what a runtime shows is of an image.
func (b *bench) has(shows, name string) bool {
	return slices.ContainsFunc([]digest.Digest{b.digests[name], b.layers[name]}, func(d digest.Digest) bool {
		return d != "" && strings.Contains(shows, d.Encoded())
	})
}

// What differs between two runs, or between two runtimes that say the same.
var variable = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`^time="[^"]*" level=\w+ msg=`), ""},
	{regexp.MustCompile(`^(ERROR|error|Error): `), ""},
	{regexp.MustCompile(`^Error response from daemon: `), ""},
	{regexp.MustCompile(`\\?"https?://[^"]*\\?"`), "URL"},
	{regexp.MustCompile(`https?://[^ ,:]+(:\d+)?[^ :]*`), "URL"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:..."},
	{regexp.MustCompile(`\(\d+ blocks, the newest \w+ old\)`), "(37 blocks, the newest 5m0s old)"},
	{regexp.MustCompile(`in block \d+`), "in block 12"},
	{regexp.MustCompile(`but got \d+`), "but got 8388608"},
	{regexp.MustCompile(`/` + lazyPrefix), "/"},
	{regexp.MustCompile(`/var/tmp/storage\d+/`), "/var/tmp/storage/"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+->`), ""},
	{regexp.MustCompile(`/tmp/pyrc-\d+`), "~"},
	{regexp.MustCompile(`\s+`), " "},
	{regexp.MustCompile(`^"(.*)"$`), "$1"},
}

const maxText = 540

// plain is a text of a runtime without what differs from run to run.
func (b *bench) plain(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	text = strings.ReplaceAll(strings.TrimSpace(lines[len(lines)-1]), b.wire.addr, "127.0.0.1:5001")
	for _, v := range variable {
		text = v.what.ReplaceAllString(text, v.with)
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + " ..."
	}
	return text
}

// Each platform does what docs/platforms.md says. With PYRSIA_PLATFORMS all of
// them run, else those whose programs other tests need too.
func TestPlatforms(t *testing.T) {
	b := start(t)
	all := os.Getenv("PYRSIA_PLATFORMS") != ""
	b.publishForPlatforms("", func(name string, size int64) { b.push(name, image.OCI, 1, size) })
	results := readResults(t)
	for _, p := range platforms() {
		t.Run(strings.ReplaceAll(p.name, "/", "-"), func(t *testing.T) {
			if !p.inCI && !all {
				t.Skip("its programs are built by 'make test-platforms'")
			}
			got := b.runPlatform(t, p)
			if !*update {
				compareResults(t, got, results[p.name])
			}
			results[p.name] = got
		})
	}
	if *update {
		writeResults(t, results)
	}
}

// runPlatform runs a row.
func (b *bench) runPlatform(t *testing.T, p platform) result {
	b.t, b.prefix = t, ""
	pull := p.start(t, b)
	b.corrupt = "peer-" + regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(p.name, "-") + ":1"
	if p.lazy {
		b.prefix = lazyPrefix
		b.pushLazy(b.corrupt, 5<<20)
	} else {
		b.push(b.corrupt, image.OCI, 1, 5<<20)
	}
	b.record(b.corrupt, b.corrupt)
	b.fetch(b.other, b.corrupt)
	if err := flipByte(b.other.Blob(b.layers[b.corrupt].Encoded())); err != nil {
		t.Fatal(err)
	}
	out := result{Cells: map[string]seen{}}
	for i, c := range columns() {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			if err := b.mirror.AwaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := b.env.hub.requests.Load()
			got := c.run(b, pull)
			asked := b.env.hub.requests.Load() - before
			if p.strict && asked > 0 {
				t.Errorf("%d requests went to a registry", asked)
			}
			t.Logf("%s (%d requests to registries; guessed %s)", got, asked, guesses[p.name][i])
			out.Cells[c.name] = got
			out.Asked += asked
		})
	}
	b.t = t
	return out
}

// publishForPlatforms makes the images of the columns, whose names have a prefix.
func (b *bench) publishForPlatforms(prefix string, push func(name string, size int64)) {
	b.t.Helper()
	for _, name := range []string{"single:1", "pinned:1", "later:1"} {
		push(prefix+name, 1<<20)
		b.record(prefix+name, prefix+name)
	}
	for _, name := range []string{"restart:1", "second:1"} {
		push(prefix+name, layerToCut)
		b.record(prefix+name, prefix+name)
	}
	push(prefix+"other:1", 1<<20)
	b.record(prefix+"other:1", quayLibrary+prefix+"other:1")
	push(prefix+"unpublished:1", 1<<10)
	b.revoke(prefix + "revoked:1")
}

// compareResults holds what was seen to what the document says. On a busy machine
// it depends on the moment whether a pull outlives the restart of its mirror.
func compareResults(t *testing.T, got, want result) {
	t.Helper()
	for _, c := range columns() {
		g, w := got.Cells[c.name], want.Cells[c.name]
		if c.name == afterCut && (g.Outcome == served || g.Outcome == denied) && w.Outcome != fallsThrough {
			continue
		}
		if g != w {
			t.Errorf("%s: %s\nwant %s\nwrite %s anew by 'make test-platforms'", c.name, g, w, platformsFile)
		}
	}
}

func readResults(t *testing.T) map[string]result {
	t.Helper()
	results := map[string]result{}
	data, err := os.ReadFile(resultsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return results
	}
	if err == nil {
		err = json.Unmarshal(data, &results)
	}
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func writeResults(t *testing.T, results map[string]result) {
	t.Helper()
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(resultsFile, append(data, '\n'), 0o644), os.WriteFile(platformsFile, []byte(platformsDocument(results)), 0o644)); err != nil {
		t.Fatal(err)
	}
}
