package transfer

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// A peer gets verified bytes of an incomplete blob or none, whatever headers
// make the server send something else than the requested range.
func TestBlobUnderWayHasNoUnwrittenBytes(t *testing.T) {
	blob, data := newBlob(t, 12*pieces.Size)
	holder := newPeer(t, setUp{})
	holder.put(t, blob, data)
	p := newPeer(t, setUp{join: []*testPeer{holder}, plain: asItIs, bandwidth: Bandwidth{Download: 4 << 20}})
	r, err := p.Open(t.Context(), blob, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, pieces.Size); err != nil { // the first piece is verified
		t.Fatal(err)
	}
	const first = "bytes=0-4194303"
	for name, test := range map[string]struct {
		header []string
		code   int
	}{
		"the range":                       {[]string{"Range", first}, http.StatusPartialContent},
		"of this content":                 {[]string{"Range", first, "If-Range", etag(blob.Digest)}, http.StatusPartialContent},
		"of other content":                {[]string{"Range", first, "If-Range", `"other"`}, http.StatusNotFound},
		"of a weak tag":                   {[]string{"Range", first, "If-Range", "W/" + etag(blob.Digest)}, http.StatusNotFound},
		"of what was changed before":      {[]string{"Range", first, "If-Range", "Sat, 01 Jan 2000 00:00:00 GMT"}, http.StatusNotFound},
		"all":                             {nil, http.StatusNotFound},
		"the last piece":                  {[]string{"Range", "bytes=46137344-50331647"}, http.StatusNotFound},
		"more than what is there":         {[]string{"Range", "bytes=0-50331647"}, http.StatusNotFound},
		"two ranges":                      {[]string{"Range", "bytes=0-9,46137344-50331647"}, http.StatusNotFound},
		"two headers, the second of more": {[]string{"Range", first, "Range", "bytes=0-"}, http.StatusPartialContent},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.plain+blobPath(blob.Digest), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(test.header); i += 2 {
			req.Header.Add(test.header[i], test.header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.code {
			t.Errorf("%s: %s, want %d", name, resp.Status, test.code)
		}
		if resp.StatusCode < 300 && (err != nil || !bytes.Equal(body, data[:len(body)])) {
			t.Errorf("%s: %d bytes, %v, and not what the blob begins with", name, len(body), err)
		}
	}
	if p.store.Has(blob.Digest) {
		t.Fatal("the blob was there before all was asked")
	}
}

// Even a reader that is asked for more stops at what is verified.
func TestPartialReadsVerifiedBytesAlone(t *testing.T) {
	blob, data := newBlob(t, 4*pieces.Size)
	p := newPeer(t, setUp{})
	part, err := p.store.Partial(blob.Digest, blob.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	d := newDownload(p.Fetcher, blob, key, part)
	for _, i := range []int{0, 1, 3} {
		offset, length := blob.Range(i)
		if _, err := part.WriteAt(data[offset:offset+length], offset); err != nil {
			t.Fatal(err)
		}
		d.add(i)
	}
	f, err := d.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err == nil || !bytes.Equal(got, data[:2*pieces.Size]) {
		t.Errorf("%d bytes of %d that are verified, %v", len(got), 2*pieces.Size, err)
	}
	if _, err := f.Seek(3*pieces.Size, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := digest.FromReader(f); err != nil || got != digest.FromBytes(data[3*pieces.Size:]) {
		t.Errorf("the last piece: %s, %v", got, err)
	}
	if err := part.Drop(); err != nil {
		t.Fatal(err)
	}
	other, err := p.store.Partial(blob.Digest, blob.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if f, err := d.open(t.Context()); err == nil {
		t.Error("the file of another download was opened for this one", f.Close())
	}
}
