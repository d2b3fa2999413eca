package tlogmirror

import (
	"compress/gzip"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"

	"filippo.io/torchwood"
)

// serveCheckpoint serves the newest checkpoint that the keys have cosigned.
func (c *Cosigner) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	m := c.member(r.PathValue("hash"))
	if m == nil {
		http.Error(w, "no log whose origin has this hash is cosigned here", http.StatusNotFound)
		return
	}
	s := m.served.Load()
	if s == nil {
		http.Error(w, "no checkpoint of this log has been cosigned yet", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(s.signed()) // the client is gone
}

// serveTile serves hashes and entries of a mirror's copy (c2sp.org/tlog-tiles), as far
// as it is cosigned.
func (c *Cosigner) serveTile(w http.ResponseWriter, r *http.Request) {
	m := c.member(r.PathValue("hash"))
	if m == nil || m.served.Load() == nil {
		http.Error(w, "no log whose origin has this hash is mirrored here", http.StatusNotFound)
		return
	}
	tile, err := torchwood.ParseTilePath("tile/" + r.PathValue("path"))
	if err != nil {
		http.Error(w, "not a tile path of c2sp.org/tlog-tiles", http.StatusNotFound)
		return
	}
	data, err := m.entries.ReadTile(m.served.Load().size, tile)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "the mirrored tree has no such tile", http.StatusNotFound)
		return
	}
	if err != nil {
		c.options.Log.Error("a mirrored tile cannot be read", "alarm", true, "path", r.URL.Path, "error", err)
		http.Error(w, "the tile is damaged on this mirror", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if tile.L >= 0 { // hashes do not become smaller
		_, _ = w.Write(data) // the client is gone
		return
	}
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = w.Write(data) // the client is gone
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	zw := compressors.Get().(*gzip.Writer)
	defer compressors.Put(zw)
	zw.Reset(w)
	_, _ = zw.Write(data) // the answer is made in memory: it takes all
	_ = zw.Close()
}

// compressors are kept, for each takes a megabyte.
var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
