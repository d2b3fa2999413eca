package httpsend

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestContentArrivesAndIsCounted(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 300_000) // three parts
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, busy := range []int32{0, maxBlocks} {
		inUse.Store(busy)
		for what, src := range map[string]io.ReadSeeker{"file": file, "reader": bytes.NewReader(content)} {
			sendAndCount(t, fmt.Sprintf("%s, %d blocks in use", what, busy), src, content)
		}
		if n := inUse.Swap(0); n != busy {
			t.Errorf("%d blocks in use after, %d before", n, busy)
		}
	}
}

// sendAndCount has a client ask for all of src and for a range.
func sendAndCount(t *testing.T, what string, src io.ReadSeeker, content []byte) {
	t.Helper()
	for header, want := range map[string][]byte{"": content, "bytes=1000000-2500000": content[1000000:2500001]} {
		var w *Writer
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w = To(rw)
			http.ServeContent(w, r, "", time.Time{}, src)
		}))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Range", header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s %q: %d bytes, %v, want %d", what, header, len(got), err, len(want))
		}
		resp.Body.Close()
		server.Close()
		if w.Bytes != int64(len(want)) || w.Code != resp.StatusCode || w.First.IsZero() {
			t.Errorf("%s %q: counted %d bytes, status %d, want %d, %d", what, header, w.Bytes, w.Code, len(want), resp.StatusCode)
		}
	}
}

// The client's clock runs only while it is the client that is waited for.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.set = append(d.set, t); return nil }

func TestEachPartHasItsDeadline(t *testing.T) {
	name := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(name, make([]byte, 3*partSize), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := &deadlines{ResponseWriter: httptest.NewRecorder()}
	if _, err := io.CopyN(To(d), file, 3*partSize); err != nil {
		t.Fatal(err)
	}
	if len(d.set) < 3 {
		t.Errorf("%d deadlines, want one for each part", len(d.set))
	}
}
