package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// serve answers all requests with the same.
func serve(t *testing.T, data []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	t.Cleanup(s.Close)
	return s.URL
}

// The author of an OfficialImageSet names any archive, and a small one may expand a
// lot: at most what a set may hold is made of it.
func TestArchivesSayNoMoreThanASetHolds(t *testing.T) {
	tags := "Tags: " + strings.Join(numbers(maxTags), ",\n ")
	files := func(n int, format string) map[string]string {
		out := map[string]string{}
		for i := range n {
			out["x/library/"+fmt.Sprintf(format, i)] = tags
		}
		return out
	}
	for name, tc := range map[string]struct {
		files map[string]string
		err   string // or that many problems
		bad   int
	}{
		"many tags":                      {files(control.MaxImages/maxTags+1, "app%d"), "more than 50000 images", 0},
		"many names that are none":       {files(control.MaxImages/maxTags+1, "App%d"), "", control.MaxImages/maxTags + 1},
		"a name as long as a tar allows": {files(1, strings.Repeat("a", 200<<10)+"%d"), "", 1},
	} {
		data := archive(t, tc.files)
		selection := control.Selection{Catalog: &control.Catalog{Archive: &control.Archive{URL: serve(t, data), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}}}
		var got *control.ListResponse
		var err error
		if took := allocated(func() { got, err = NewLister(noTags).List(t.Context(), selection) }); took > 128<<20 {
			t.Errorf("%s: an archive of %d KiB took %d MiB", name, len(data)>>10, took>>20)
		}
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: %v", name, err)
		case tc.err == "" && (err != nil || len(got.Images) > 0 || len(got.Problems) != tc.bad):
			t.Errorf("%s: %v, %d images, %d problems", name, err, len(got.Images), len(got.Problems))
		}
	}
}

// allocated is how many bytes are allocated while do runs.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// An archive that takes long to read is not read on for a request that has ended.
func TestArchivesAreReadNoLongerThanTheirRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	data := archive(t, map[string]string{"x/library/app": "Tags: 1"})
	if _, _, err := readArchive(ctx, data); !errors.Is(err, context.Canceled) {
		t.Errorf("it was read on: %v", err)
	}
}

// A list that says that it is Docker Hub's names repositories, and no more than that.
func TestListsOfRepositoriesAreBounded(t *testing.T) {
	asked := 0
	long := strings.Repeat("a", maxHubPage*9/10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		fmt.Fprintf(w, `{"next":"there is more","results":[{"name":"%s"}]}`, long)
	}))
	defer s.Close()
	hub := control.Selection{Catalog: &control.Catalog{DockerHub: &control.DockerHub{Endpoint: s.URL, TagRules: control.TagRules{Newest: 1}}}}
	if _, err := NewLister(noTags).List(t.Context(), hub); err == nil || asked > 1 {
		t.Errorf("%d names of %d bytes were taken: %v", asked, len(long), err)
	}
}

// A selection whose parts can not be listed is refused before the reasons fill memory.
func TestProblemsAreBounded(t *testing.T) {
	var s control.Selection
	for i := range maxProblems + 1 {
		s.Images = append(s.Images, control.ImageRule{Repository: fmt.Sprintf("App%d", i), Tags: []string{"1"}})
	}
	if _, err := NewLister(noTags).List(t.Context(), s); err == nil || !strings.Contains(err.Error(), "could not be listed") {
		t.Errorf("%v", err)
	}
	s.Images = s.Images[1:]
	if got, err := NewLister(noTags).List(t.Context(), s); err != nil || len(got.Problems) != maxProblems {
		t.Errorf("%v", err)
	}
}

// Neither a catalog's URL nor a redirect makes the publisher ask for the credentials
// that a cloud gives its machines. If the addresses were asked, nothing would answer
// here.
func TestCatalogsAreNotWhereCloudsTellCredentials(t *testing.T) {
	redirect := httptest.NewServer(http.RedirectHandler("http://169.254.77.77/", http.StatusFound))
	defer redirect.Close()
	for _, url := range []string{redirect.URL, "http://169.254.77.77/", "http://[fe80::4d4d]/", "http://[::ffff:169.254.77.77]/",
		"http://[fd00:ec2::4d4d]/", "http://[fd20:ce::4d4d]/", "http://[64:ff9b::a9fe:4d4d]/"} {
		_, err := get(within(t), NewLister(noTags).client, url, 1)
		if err == nil || !strings.Contains(err.Error(), "link-local") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// within bounds a request that is refused immediately, or fails without a
// network.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
