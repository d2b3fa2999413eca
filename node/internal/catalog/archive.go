package catalog

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	maxArchive      = 64 << 20 // compressed, bytes
	maxUnpacked     = 1 << 30
	maxFiles        = 100_000
	maxRepositories = 5000
	maxTagged       = 4 * control.MaxImages // in all files; a set may leave most of them out
	fetchTimeout    = 5 * time.Minute
)

// archiveImages lists the images of an archive of official-images, as
// repository:tag, and what of it could not be read.
func (l *Lister) archiveImages(ctx context.Context, a control.Archive) ([]string, []control.Problem, error) {
	l.mu.Lock()
	known := l.archive
	l.mu.Unlock()
	if known == nil || known.sha256 != a.SHA256 {
		data, err := l.fetchArchive(ctx, a)
		if err != nil {
			return nil, nil, err
		}
		known = &parsedArchive{sha256: a.SHA256}
		if known.images, known.problems, err = readArchive(ctx, data); err != nil {
			return nil, nil, fmt.Errorf("the catalog's archive: %w", err)
		}
		l.mu.Lock()
		l.archive = known // content by digest: it never changes
		l.mu.Unlock()
	}
	return known.images, known.problems, nil
}

type parsedArchive struct {
	sha256   string
	images   []string
	problems []control.Problem
}

func (l *Lister) fetchArchive(ctx context.Context, a control.Archive) ([]byte, error) {
	if want, err := hex.DecodeString(a.SHA256); err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("the catalog's sha256 %.80q is not 64 hexadecimal digits", a.SHA256)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	data, err := get(ctx, l.client, a.URL, maxArchive)
	if err != nil {
		return nil, fmt.Errorf("fetching the catalog: %w", err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != strings.ToLower(a.SHA256) {
		return nil, fmt.Errorf("the catalog at %s has the SHA-256 %s, want %s: record the one that you have reviewed", a.URL, got, a.SHA256)
	}
	return data, nil
}

// get reads a URL's content of at most limit bytes.
func get(ctx context.Context, client *http.Client, url string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", req.URL.Host, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading from %s: %w", req.URL.Host, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s sent more than %d bytes", req.URL.Host, limit)
	}
	return data, nil
}

// readArchive reads the files library/NAME of a .tar.gz. Everything else in it is
// ignored. The author of an image set names any archive, and a small one may
// expand to far more than its size.
func readArchive(ctx context.Context, data []byte) (images []string, problems []control.Problem, err error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	limited := &io.LimitedReader{R: unzipped, N: maxUnpacked}
	archive := tar.NewReader(limited)
	repositories := 0
	for n := 0; ; n++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if limited.N == 0 || n == maxFiles {
			return nil, nil, fmt.Errorf("more than %d files or %d bytes", maxFiles, maxUnpacked)
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			return nil, nil, err
		}
		repository, ok := libraryFile(header)
		if !ok {
			continue
		}
		if repositories++; repositories > maxRepositories {
			return nil, nil, fmt.Errorf("more than %d repositories", maxRepositories)
		}
		if _, err := ledger.ParseImage(repository + ":x"); err != nil {
			problems = append(problems, problem(repository, "InvalidImage", err))
			continue
		}
		builds, err := ParseLibrary(archive)
		if err != nil {
			problems = append(problems, problem(repository, control.ReasonInvalidRequest, fmt.Errorf("library/%s: %w", repository, err)))
			continue
		}
		if images = append(images, tagged(repository, builds)...); len(images) > maxTagged {
			return nil, nil, fmt.Errorf("more than %d images", maxTagged)
		}
	}
	if repositories == 0 {
		return nil, nil, errors.New("no file library/NAME in it")
	}
	slices.Sort(images)
	return slices.Compact(images), problems, nil
}

// libraryFile tells whether a file is */library/NAME, or library/NAME.
func libraryFile(h *tar.Header) (repository string, ok bool) {
	dir, name := path.Split(path.Clean("/" + h.Name))
	parts := strings.Split(strings.Trim(dir, "/"), "/")
	return name, h.Typeflag == tar.TypeReg && len(parts) <= 2 && parts[len(parts)-1] == "library"
}

func tagged(repository string, builds []Build) (images []string) {
	for _, b := range builds {
		for _, tag := range slices.Concat(b.Tags, b.SharedTags) {
			images = append(images, repository+":"+tag)
		}
	}
	return images
}

func problem(what string, reason control.Reason, err error) control.Problem {
	const limit = 1000
	message := strings.ToValidUTF8(err.Error(), "?")
	return control.Problem{What: what[:min(len(what), 255)], Error: control.Error{Reason: reason, Message: message[:min(len(message), limit)]}}
}
