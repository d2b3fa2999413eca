package replica

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"filippo.io/torchwood"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/answers"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Handler serves this copy of the ledger, read-only and open to everyone:
//
//	/checkpoint, /tile/...               c2sp.org/tlog-tiles
//	/api/v1/artifacts?image= or digest=  blocks, newest first, paged by n= and before=;
//	                                     of a digest the first 12 digits will do
//	/api/v1/lookup?q=...&q=...           what the ledger says of many images, under one head
//	/api/v1/blocks                       the newest blocks of all types, paged in the same way
//	/api/v1/blocks/HEIGHT                one block with its proof
//	/api/v1/entries/HEIGHT?n=            entries from a height on, as in a bundle
//	/api/v1/rotations                    proofs that the ledger was handed over to other keys
//	/api/v1/evidence                     what this node has refused
func (l *Ledger) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", l.serveCheckpoint)
	mux.HandleFunc("GET /tile/", l.serveTile)
	mux.HandleFunc("GET /api/v1/artifacts", l.serveArtifacts)
	mux.HandleFunc("GET /api/v1/lookup", l.serveLookup)
	mux.HandleFunc("GET /api/v1/blocks", l.serveBlocks)
	mux.HandleFunc("GET /api/v1/blocks/{height}", l.serveBlock)
	mux.HandleFunc("GET /api/v1/entries/{height}", l.serveEntries)
	mux.HandleFunc("GET /api/v1/rotations", l.serveRotations)
	mux.HandleFunc("GET /api/v1/evidence", l.serveEvidence)
	return l.limit.Handler(mux)
}

func (l *Ledger) serveCheckpoint(w http.ResponseWriter, _ *http.Request) {
	head, ok := l.Head()
	if !ok {
		http.Error(w, "no checkpoint yet: this node has not reached a node of its network", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(head.Signed)
}

func (l *Ledger) serveTile(w http.ResponseWriter, r *http.Request) {
	t, err := torchwood.ParseTilePath(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.Error(w, "not a tile path of c2sp.org/tlog-tiles", http.StatusNotFound)
		return
	}
	data, err := l.readTile(r.Context(), t)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "this node does not have that tile", http.StatusNotFound)
		return
	}
	if err != nil {
		l.log.Error("a tile is damaged on this disk: end this process and run 'pyrsia fsck'", "alarm", true, "path", r.URL.Path, "error", err)
		http.Error(w, "the tile is damaged on this node", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	answers.WriteWhole(w, data)
}

// serveArtifacts answers with a page of blocks. A further one is announced by a
// Link header (RFC 8288), rel="next".
func (l *Ledger) serveArtifacts(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, below, err := page(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var find func() ([]*ledger.Entry, error)
	switch image, d := q.Get("image"), digest.Digest(q.Get("digest")); {
	case image != "" && d == "":
		name, err := ledger.ParseImage(image)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		find = func() ([]*ledger.Entry, error) { return l.historyBelow(r.Context(), name, below, n+1) }
	case d != "" && image == "":
		digits, cut := ledger.CutDigest(d)
		if err := ledger.CheckDigest(d); err != nil && !cut {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		find = func() (_ []*ledger.Entry, err error) {
			if cut {
				if d, err = l.wholeDigest(r.Context(), digits); err != nil {
					return nil, err
				}
			}
			return l.byDigestBelow(r.Context(), d, below, n+1)
		}
	default:
		http.Error(w, "give image=NAME:TAG or digest=sha256:...", http.StatusBadRequest)
		return
	}
	if l.unchanged(w, r) {
		return
	}
	found, err := find()
	if err != nil {
		l.fail(w, err)
		return
	}
	if len(found) > n { // one more was asked for to know that there is another page
		found = found[:n]
		nextPage(w, r, found[n-1].Height)
	}
	l.writeBlocks(w, r, found)
}

// nextPage announces the page of blocks below a height.
func nextPage(w http.ResponseWriter, r *http.Request, below int64) {
	q := r.URL.Query()
	q.Set("before", strconv.FormatInt(below, 10))
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, q.Encode()))
}

func (l *Ledger) writeBlocks(w http.ResponseWriter, r *http.Request, found []*ledger.Entry) {
	out := []ledger.BlockJSON{}
	for _, e := range found {
		b, err := l.blockJSON(r.Context(), e, nil)
		if err != nil {
			l.fail(w, err)
			return
		}
		out = append(out, b)
	}
	writeJSON(w, out)
}

// serveBlocks answers with a page of the newest blocks of all types.
func (l *Ledger) serveBlocks(w http.ResponseWriter, r *http.Request) {
	n, below, err := page(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if l.unchanged(w, r) {
		return
	}
	var found []*ledger.Entry
	for height := min(below, l.Size()) - 1; height >= 0 && len(found) < n; height-- {
		e, err := l.Entry(r.Context(), height)
		if err != nil {
			l.fail(w, err)
			return
		}
		found = append(found, e)
	}
	if len(found) == n && found[n-1].Height > 0 {
		nextPage(w, r, found[n-1].Height)
	}
	l.writeBlocks(w, r, found)
}

// page reads which blocks are asked for: at most n, below a height.
func page(q url.Values) (n int, below int64, err error) {
	n, below = ledger.MaxArtifacts, math.MaxInt64
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > ledger.MaxArtifacts {
			return 0, 0, fmt.Errorf("n=%.20q: give a number from 1 to %d", s, ledger.MaxArtifacts)
		}
	}
	if s := q.Get("before"); s != "" {
		if below, err = strconv.ParseInt(s, 10, 64); err != nil || below < 0 {
			return 0, 0, fmt.Errorf("before=%.20q: give the height of a block", s)
		}
	}
	return n, below, nil
}

func (l *Ledger) serveBlock(w http.ResponseWriter, r *http.Request) {
	height, err := strconv.ParseInt(r.PathValue("height"), 10, 64)
	if err != nil {
		http.Error(w, "the height of a block is a number", http.StatusBadRequest)
		return
	}
	if l.unchanged(w, r) {
		return
	}
	b, proof, err := l.Block(r.Context(), height)
	if err != nil {
		l.fail(w, err)
		return
	}
	out, err := l.blockJSON(r.Context(), b, proof)
	if err != nil {
		l.fail(w, err)
		return
	}
	writeJSON(w, out)
}

// unchanged answers a conditional request (RFC 9110, section 13): answers
// change only when the ledger grows.
func (l *Ledger) unchanged(w http.ResponseWriter, r *http.Request) bool {
	head, _ := l.Head()
	tag := fmt.Sprintf(`"%x"`, head.Tree.Hash[:16])
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache") // ask again each time: often the answer is 304
	if r.Header.Get("If-None-Match") != tag {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

func (l *Ledger) serveRotations(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	writeJSON(w, append([]ledger.Rotation{}, l.Rotations()...))
}

func (l *Ledger) serveEvidence(w http.ResponseWriter, _ *http.Request) {
	evidence, err := l.Evidence()
	if err != nil {
		l.fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // it would make six bytes of one
	_ = enc.Encode(append([]ledger.Evidence{}, evidence...))
}

// serveEntries answers with what a follower lacks. It is compressed: half of
// an entry are digests in hexadecimal.
func (l *Ledger) serveEntries(w http.ResponseWriter, r *http.Request) {
	from, err1 := strconv.ParseInt(r.PathValue("height"), 10, 64)
	n, err2 := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	if err1 != nil || err2 != nil || from < 0 || n < 1 || n > maxGrowth {
		http.Error(w, fmt.Sprintf("give a height, and n from 1 to %d", maxGrowth), http.StatusBadRequest)
		return
	}
	var body []byte
	for height := from; height < from+n; height++ {
		e, err := l.Entry(r.Context(), height)
		if err == nil {
			body, err = torchwood.AppendTileEntry(body, e.Data)
		}
		if err != nil {
			l.fail(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		answers.WriteWhole(w, body)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	zw := compressors.Get().(*gzip.Writer)
	defer compressors.Put(zw)
	zw.Reset(w)
	_, _ = zw.Write(body) // the answer is in memory: it takes all
	_ = zw.Close()
}

func (l *Ledger) fail(w http.ResponseWriter, err error) {
	if errors.Is(err, ledger.ErrNotFound) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if _, ok := errors.AsType[*AmbiguousError](err); ok {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	l.log.Error("answering a query", "error", err)
	http.Error(w, "the ledger cannot be read", http.StatusInternalServerError)
}

// blockJSON is a block, with what of it is withdrawn.
func (l *Ledger) blockJSON(ctx context.Context, b *ledger.Entry, proof []byte) (ledger.BlockJSON, error) {
	out := ledger.BlockJSON{Height: b.Height, Hash: tlog.RecordHash(b.Data).String(), Entry: string(b.Data), Proof: string(proof)}
	if b.Artifact == nil {
		return out, nil
	}
	by, err := l.RevokedBy(ctx, b)
	if err != nil {
		return out, err
	}
	if by != nil {
		out.RevokedBy = &by.Height
		out.Withdrawn = append(out.Withdrawn, ledger.WithdrawnJSON{Digest: b.Artifact.Digest, By: by.Height, Reason: by.Reason()})
	}
	platforms, err := l.WithdrawnPlatforms(ctx, b)
	for _, p := range b.Artifact.Platforms {
		if by := platforms[p.Digest]; by != nil && p.Digest != b.Artifact.Digest {
			out.Withdrawn = append(out.Withdrawn, ledger.WithdrawnJSON{Digest: p.Digest, By: by.Height, Reason: by.Reason()})
			delete(platforms, p.Digest) // an index may name it twice
		}
	}
	return out, err
}

// compressors are reused: each takes a megabyte.
var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}
