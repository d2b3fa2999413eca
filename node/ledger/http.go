package ledger

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"
)

// maxArtifacts bounds the blocks in one answer of /api/v1/artifacts.
const maxArtifacts = 100

// BlockJSON is a block in the answers of /api/v1/.
type BlockJSON struct {
	Height int64 `json:"height"`
	// Hash is the RFC 6962 leaf hash in base64.
	Hash string `json:"hash"`
	// Entry is the entry itself, as a string: its bytes are what is hashed.
	Entry string `json:"entry"`
	// Proof is a c2sp.org/tlog-proof; only in answers about one block.
	Proof string `json:"proof,omitempty"`
}

// Handler serves this copy of the ledger, read-only and open to everyone:
//
//	/checkpoint, /tile/...               c2sp.org/tlog-tiles
//	/api/v1/artifacts?image= or digest=  blocks, newest first
//	/api/v1/blocks/HEIGHT                one block with its proof
//	/api/v1/entries/HEIGHT?n=            entries from a height on, as in a bundle
func (l *Ledger) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", l.serveCheckpoint)
	mux.HandleFunc("GET /tile/", l.serveTile)
	mux.HandleFunc("GET /api/v1/artifacts", l.serveArtifacts)
	mux.HandleFunc("GET /api/v1/blocks/{height}", l.serveBlock)
	mux.HandleFunc("GET /api/v1/entries/{height}", l.serveEntries)
	return mux
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
	data, err := l.dir.readTile(t)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "this node does not have that tile", http.StatusNotFound)
		return
	}
	if err != nil {
		l.log.Error("reading a tile", "path", r.URL.Path, "error", err)
		http.Error(w, "the tile cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(data)
}

func (l *Ledger) serveArtifacts(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var found []*Entry
	var err error
	switch image, d := q.Get("image"), digest.Digest(q.Get("digest")); {
	case image != "" && d == "":
		name, perr := ParseImage(image)
		if perr != nil {
			http.Error(w, perr.Error(), http.StatusBadRequest)
			return
		}
		found, err = l.History(r.Context(), name, maxArtifacts)
	case d != "" && image == "":
		if derr := CheckDigest(d); derr != nil {
			http.Error(w, derr.Error(), http.StatusBadRequest)
			return
		}
		found, err = l.ByDigest(r.Context(), d, maxArtifacts)
	default:
		http.Error(w, "give image=NAME:TAG or digest=sha256:...", http.StatusBadRequest)
		return
	}
	if err != nil {
		l.fail(w, err)
		return
	}
	out := []BlockJSON{}
	for _, e := range found {
		out = append(out, blockJSON(e, nil))
	}
	writeJSON(w, out)
}

func (l *Ledger) serveBlock(w http.ResponseWriter, r *http.Request) {
	height, err := strconv.ParseInt(r.PathValue("height"), 10, 64)
	if err != nil {
		http.Error(w, "the height of a block is a number", http.StatusBadRequest)
		return
	}
	b, proof, err := l.Block(r.Context(), height)
	if err != nil {
		l.fail(w, err)
		return
	}
	writeJSON(w, blockJSON(b, proof))
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
		_, _ = w.Write(body)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	zw := gzip.NewWriter(w)
	_, _ = zw.Write(body) // the client is gone: nobody to tell
	_ = zw.Close()
}

func (l *Ledger) fail(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrNotFound) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	l.log.Error("answering a query", "error", err)
	http.Error(w, "the ledger cannot be read", http.StatusInternalServerError)
}

func blockJSON(b *Entry, proof []byte) BlockJSON {
	return BlockJSON{Height: b.Height, Hash: tlog.RecordHash(b.Data).String(), Entry: string(b.Data), Proof: string(proof)}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}
