package catalog

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

func parseFile(t *testing.T, name string) []Build {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	builds, err := ParseLibrary(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return builds
}

func TestParseLibrary(t *testing.T) {
	want := []Build{
		{Tags: []string{"2.0.1-trixie", "2.0-trixie", "2-trixie"}, SharedTags: []string{"2.0.1", "2", "latest"}, Architectures: []string{"amd64", "arm64v8"}},
		{Tags: []string{"2.0.1-windows"}, SharedTags: []string{"2.0.1", "2", "latest"}, Architectures: []string{"windows-amd64"}},
	}
	if diff := cmp.Diff(want, parseFile(t, "testdata/library/app")); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
	if got := parseFile(t, "testdata/library/crlf"); len(got) != 1 || len(got[0].Tags) != 2 || got[0].Architectures[0] != "amd64" {
		t.Errorf("crlf: %+v", got)
	}
	if got := parseFile(t, "testdata/library/retired"); len(got) != 0 {
		t.Errorf("retired: %+v", got)
	}
}

func TestParseLibraryRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"a continuation of nothing": " Tags: a",
		"a line without a colon":    "Tags: a\nnonsense",
		"a field twice":             "Tags: a\nTags: b",
		"a stanza without tags":     "Maintainers: x\n\nDirectory: a",
		"a tag that is none":        "Tags: a/b",
		"a tag that climbs":         "Tags: ../x",
		"a line without end":        "Tags: " + strings.Repeat("a", maxLine),
		"a file without end":        strings.Repeat("# comment\n", maxFile/10+10),
		"too many tags":             "Tags: " + strings.Join(numbers(maxTags+1), ",\n "),
	} {
		if builds, err := ParseLibrary(strings.NewReader(content)); err == nil {
			t.Errorf("%s: accepted: %.100v", name, builds)
		}
	}
}

func numbers(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func FuzzParseLibrary(f *testing.F) {
	files, err := filepath.Glob("testdata/library/*")
	if err != nil || len(files) == 0 {
		f.Fatal("no fixtures", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		builds, err := ParseLibrary(bytes.NewReader(data))
		if err != nil {
			return
		}
		count := 0
		for _, b := range builds {
			count += len(b.Tags) + len(b.SharedTags)
			if len(b.Architectures) == 0 || len(b.Tags)+len(b.SharedTags) == 0 {
				t.Errorf("a build without tags or architectures: %+v", b)
			}
			for _, tag := range append(b.Tags, b.SharedTags...) {
				if !validTag(tag) {
					t.Errorf("tag %q", tag)
				}
			}
		}
		if count > maxTags {
			t.Errorf("%d tags", count)
		}
	})
}

// The real catalog, when a checkout of docker-library/official-images is there.
func TestRealLibrary(t *testing.T) {
	dir := os.Getenv("PYRSIA_OFFICIAL_IMAGES")
	if dir == "" {
		t.Skip("PYRSIA_OFFICIAL_IMAGES does not name a checkout of docker-library/official-images")
	}
	files, err := os.ReadDir(filepath.Join(dir, "library"))
	if err != nil {
		t.Fatal(err)
	}
	repositories, tags, builds := 0, 0, 0
	for _, f := range files {
		parsed := parseFile(t, filepath.Join(dir, "library", f.Name()))
		unique := map[string]bool{}
		for _, image := range tagged(f.Name(), parsed) {
			unique[image] = true
		}
		for _, b := range parsed {
			builds += len(b.Architectures)
		}
		if tags += len(unique); len(unique) > 0 {
			repositories++
		}
	}
	t.Logf("%d repositories with %d tags and %d builds", repositories, tags, builds)
	if repositories < 100 || tags < 5000 || builds < 5000 {
		t.Error("these are fewer than there were in 2026")
	}
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for name, content := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func noTags(context.Context, string) ([]string, error) { return nil, errors.New("nobody was to ask") }

func TestArchiveIsTheOneThatWasReviewed(t *testing.T) {
	app, err := os.ReadFile("testdata/library/app")
	if err != nil {
		t.Fatal(err)
	}
	data := archive(t, map[string]string{
		"official-images-0123/library/app":   string(app),
		"official-images-0123/library/bad":   "nonsense",
		"official-images-0123/other/app2":    "Tags: 1",
		"official-images-0123/library/x/y":   "Tags: 1",
		"../../library/climbing":             "Tags: 1",
		"official-images-0123/README.md":     "library",
		"official-images-0123/library/App:X": "Tags: 1",
	})
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { requests++; _, _ = w.Write(data) }))
	defer server.Close()
	selection := control.Selection{
		Catalog: &control.Catalog{Archive: &control.Archive{URL: server.URL, SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}},
		Exclude: []string{"app:*-windows", "climb*:*"},
	}
	l := NewLister(noTags)
	for range 2 {
		got, err := l.List(t.Context(), selection)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"docker.io/library/app:2", "docker.io/library/app:2-trixie", "docker.io/library/app:2.0-trixie",
			"docker.io/library/app:2.0.1", "docker.io/library/app:2.0.1-trixie", "docker.io/library/app:latest"}
		if diff := cmp.Diff(want, got.Images); diff != "" {
			t.Errorf("images (-want +got):\n%s", diff)
		}
		if len(got.Problems) != 2 || got.Problems[0].What != "App:X" || got.Problems[1].What != "bad" {
			t.Errorf("problems: %+v", got.Problems)
		}
	}
	if requests != 1 {
		t.Errorf("fetched %d times what a digest names", requests)
	}
	selection.Catalog.Archive.SHA256 = strings.Repeat("0", 64)
	if _, err := NewLister(noTags).List(t.Context(), selection); err == nil || !strings.Contains(err.Error(), "has the SHA-256") {
		t.Errorf("another archive: %v", err)
	}
}

func TestArchivesAreBounded(t *testing.T) {
	bomb := archive(t, map[string]string{"x/library/app": "Tags: 1", "x/filler": strings.Repeat("\x00", 8<<20)})
	if _, _, err := readArchive(t.Context(), bomb[:len(bomb)/2]); err == nil {
		t.Error("half an archive was read")
	}
	if _, _, err := readArchive(t.Context(), []byte("not gzip")); err == nil {
		t.Error("no archive was read")
	}
	if _, _, err := readArchive(t.Context(), archive(t, map[string]string{"x/y": "z"})); err == nil || !strings.Contains(err.Error(), "library/NAME") {
		t.Errorf("an archive of something else: %v", err)
	}
}

func TestTagRules(t *testing.T) {
	tags := []string{"latest", "3.20.1", "3.20", "3.19.4", "3.9", "4.0.0-rc1", "3.20.1-slim", "edge", "20240101", "bad tag", "2.7"}
	for name, tc := range map[string]struct {
		rules control.TagRules
		want  []string
	}{
		"a range of versions":  {control.TagRules{Semver: ">=3.19 <4"}, []string{"3.20.1", "3.20", "3.19.4"}},
		"a regular expression": {control.TagRules{Regexp: `3\.\d+`}, []string{"3.20", "3.9"}},
		"the newest":           {control.TagRules{Newest: 2, Exclude: []string{"2024*", "*-rc*"}}, []string{"3.20.1", "3.20.1-slim"}},
		"newest of a range":    {control.TagRules{Semver: "^3", Newest: 1}, []string{"3.20.1"}},
		"all but some":         {control.TagRules{Exclude: []string{"3*", "20*", "4*", "2.*"}}, []string{"latest", "edge"}},
	} {
		f, err := newFilter(tc.rules)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, f.apply(tags)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, bad := range []control.TagRules{{Semver: "x.y"}, {Regexp: "("}, {Exclude: []string{"["}}, {Regexp: strings.Repeat("a", maxRegexp+1)}} {
		if _, err := newFilter(bad); err == nil {
			t.Errorf("accepted: %+v", bad)
		}
	}
}

func TestDockerHubIsListedPageByPage(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/namespaces/library/repositories" {
			http.NotFound(w, r)
			return
		}
		switch r.URL.Query().Get("page") {
		case "1": // where it says to go next is not followed
			fmt.Fprint(w, `{"count":3,"next":"http://169.254.169.254/","results":[{"name":"alpine"},{"name":"../../etc"}]}`)
		default:
			fmt.Fprint(w, `{"count":3,"next":null,"results":[{"name":"busybox"}]}`)
		}
	}))
	defer server.Close()
	l := NewLister(func(_ context.Context, repository string) ([]string, error) {
		if repository == "docker.io/library/busybox" {
			return nil, &control.Error{Reason: control.ReasonUpstreamUnavailable, Message: "it is down"}
		}
		return []string{"1", "2", "latest"}, nil
	})
	got, err := l.List(t.Context(), control.Selection{Catalog: &control.Catalog{DockerHub: &control.DockerHub{Endpoint: server.URL, TagRules: control.TagRules{Newest: 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"docker.io/library/alpine:2"}, got.Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	if len(got.Problems) != 2 || got.Problems[0].Reason != "InvalidImage" || got.Problems[1].Message != "it is down" {
		t.Errorf("problems: %+v", got.Problems)
	}
}
