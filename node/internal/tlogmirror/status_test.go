package tlogmirror_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
)

// Each refusal of add-checkpoint that tlog-witness names, at a mirror and at a witness,
// and none changes anything.
func TestAddCheckpointRefusals(t *testing.T) {
	t.Parallel()
	const at, size = 300, 400
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		l := newSpecLog(origin, "refusals", size)
		r := newRig(t, role, l)
		r.mustAdd(l, 0, at)
		before := r.member.State().Serial
		other, stranger := l.fork(100), newSpecLog("log.example/unknown", "refusals", size)
		otherKey := newSpecLog(origin, "another key", size)
		sig := strings.SplitAfter(l.checkpoint(size), "\n\n")[1]
		var many []specHash
		for range 64 {
			many = append(many, l.mth(0, 1))
		}
		for name, tt := range map[string]struct {
			body string
			code int
			says string
		}{
			"no checkpoint":               {"old 300\n", 400, "empty line"},
			"no old size":                 {"300\n\n" + l.checkpoint(size), 400, "old SIZE"},
			"a size with a zero before":   {"old 0300\n\n" + l.checkpoint(size), 400, "leading zeros"},
			"a size with a sign":          {"old +300\n\n" + l.checkpoint(size), 400, "leading zeros"},
			"a size that is too large":    {"old 99999999999999999999\n\n" + l.checkpoint(size), 400, "decimal"},
			"a proof that is no base64":   {"old 300\n!\n\n" + l.checkpoint(size), 400, "base64"},
			"a hash that is too short":    {"old 300\nAAAA\n\n" + l.checkpoint(size), 400, "base64"},
			"base64 with a carriage":      {"old 300\n" + strings.Replace(specLines(many[:1]), "=", "=\r", 1) + "\n" + l.checkpoint(size), 400, "base64"},
			"64 hashes":                   {"old 300\n" + specLines(many) + "\n" + l.checkpoint(size), 400, "at most 63"},
			"a note that is none":         {"old 300\n\n" + l.text(size), 400, "checkpoint"},
			"a root with odd base64":      {"old 300\n\n" + l.sign(strings.Replace(l.text(size), "=\n", "\n", 1)), 400, "checkpoint"},
			"a body that is too large":    {"old 300\n\n" + l.checkpoint(size) + strings.Repeat("— x AAAAAAAA\n", 20_000), 413, "bytes"},
			"old above the checkpoint's":  {"old 401\n\n" + l.checkpoint(size), 400, "401"},
			"an unknown log":              {stranger.addCheckpointBody(at, size), 404, "not cosigned here"},
			"no signature":                {"old 300\n\n" + l.text(size) + "\n— x AAAAAAAAAAAA\n", 403, "no signature"},
			"another key":                 {otherKey.addCheckpointBody(at, size), 403, "no signature"},
			"a signature of another text": {"old 300\n\n" + l.text(at) + "\n" + sig, 403, "does not verify"},
			"a stale old size":            {l.addCheckpointBody(200, size), 409, "300\n"},
			"old 0 at first contact lost": {l.addCheckpointBody(0, size), 409, "300\n"},
			"a proof where none belongs":  {"old 300\n" + specLines(many[:1]) + "\n" + l.checkpoint(at), 422, "proof"},
			"no proof":                    {"old 300\n\n" + l.checkpoint(size), 422, "continue"},
			"a proof of another history":  {other.addCheckpointBody(at, size), 422, "continue"},
			"another root at its size":    {other.addCheckpointBody(at, at), 422, "root"},
		} {
			a := r.post("/add-checkpoint", []byte(tt.body), nil)
			want(t, fmt.Sprintf("%s, %s", role, name), a, tt.code, tt.says)
			if a.code == http.StatusConflict && (a.body != "300\n" || a.header.Get("Content-Type") != "text/x.tlog.size") {
				t.Errorf("%s, %s: %q as %q", role, name, a.body, a.header.Get("Content-Type"))
			}
		}
		if now := r.member.State(); now.Serial != before || now.Pending.Tree.Size != at {
			t.Errorf("%s: refusals changed the record from %d to %d", role, before, now.Serial)
		}
	}
}

// A size of zero has one root, and no proof; both roles accept it first.
func TestEmptyLog(t *testing.T) {
	t.Parallel()
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		l := newSpecLog(origin, "empty", 9)
		r := newRig(t, role, l)
		wrong := l.sign(strings.Replace(l.text(0), base64.StdEncoding.EncodeToString(func() []byte { h := sha256.Sum256(nil); return h[:] }()), strings.Repeat("A", 43)+"=", 1))
		want(t, "another root", r.post("/add-checkpoint", []byte("old 0\n\n"+wrong), nil), 422, "empty")
		h := l.mth(0, 1)
		want(t, "a proof from zero", r.post("/add-checkpoint", []byte("old 0\n"+specLines([]specHash{h})+"\n"+l.checkpoint(9)), nil), 422, "proof")
		specVerify(t, r.cosigner.Keys(), r.mustAdd(l, 0, 0), l.text(0), [2]int{0, 0})
		specVerify(t, r.cosigner.Keys(), r.mustAdd(l, 0, 9), l.text(9), [2]int{0, 9})
	}
}

// Each refusal of add-entries that tlog-mirror names.
func TestAddEntriesRefusals(t *testing.T) {
	t.Parallel()
	const mirrored, next, size = 300, 512, 10_000
	l := newSpecLog(origin, "entries", size)
	r := newRig(t, quorum.Mirror, l)
	want(t, "before any checkpoint", r.post("/add-entries", l.uploadBody(0, size, nil, 1), octets), 422, "add-checkpoint")
	r.mustAdd(l, 0, mirrored)
	r.addCheckpoint(l, mirrored, size)
	if end, at, _ := specInfo(t, r.post("/add-entries", l.uploadBody(mirrored, size, nil, 1), octets)); end != size || at != next {
		t.Fatalf("after a package: %d, %d; want %d, %d", end, at, size, next)
	}
	unknown := newSpecLog("log.example/unknown", "entries", 9)
	header := l.uploadHeader(next, size, nil)
	whole := l.uploadBody(next, size, nil, 1)
	wrong := bytes.Clone(whole)
	wrong[len(header)+5] ^= 1
	longProof := append(bytes.Clone(whole[:len(whole)-32*int(proofLength(l, next, size))-1]), 64)
	for name, tt := range map[string]struct {
		body   []byte
		header map[string]string
		code   int
		says   string
	}{
		"no content type":              {whole, nil, 415, "application/octet-stream"},
		"an unknown encoding":          {whole, map[string]string{"Content-Type": "application/octet-stream", "Content-Encoding": "br"}, 415, "gzip"},
		"gzip that is none":            {whole, zipped, 400, "gzip"},
		"nothing":                      {nil, octets, 400, "header"},
		"half a header":                {header[:12], octets, 400, "header"},
		"a ticket that is cut off":     {binary.BigEndian.AppendUint16(bytes.Clone(header[:len(header)-2]), 9), octets, 400, "ticket"},
		"a start above the end":        {l.uploadHeader(2, 1, nil), octets, 400, "upload_start"},
		"an unknown log":               {unknown.uploadBody(0, 9, nil, 1), octets, 404, "not mirrored"},
		"an end that never was":        {l.uploadHeader(next, size-1, nil), octets, 409, "10000\n512\n"},
		"an end of all ones":           {l.uploadHeader(next, -1, nil), octets, 409, "10000\n512\n"},
		"an end below what is there":   {l.uploadHeader(100, 200, nil), octets, 409, "10000\n512\n"},
		"a start above the next entry": {l.uploadHeader(next+1, size, nil), octets, 409, "10000\n512\n"},
		"another entry":                {wrong, octets, 422, "512 to 768"},
		"a proof of 64 hashes":         {longProof, octets, 422, "63"},
		"no package":                   {header, octets, 400, "no whole entry package"},
		"half a package":               {whole[:len(whole)-1], octets, 400, "no whole entry package"},
		"half a package, compressed":   {specGzip(whole[:len(whole)-1]), zipped, 400, "no whole entry package"},
		"zeros without end":            {specGzip(append(bytes.Clone(header), make([]byte, 64<<20)...)), zipped, 422, "512 to 768"},
		"a gzip stream that ends":      {specGzip(whole)[:200], zipped, 400, "no whole entry package"},
	} {
		a := r.post("/add-entries", tt.body, tt.header)
		want(t, name, a, tt.code, tt.says)
		if a.header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("%s: Accept-Encoding %q", name, a.header.Get("Accept-Encoding"))
		}
		if a.code == http.StatusConflict {
			specInfo(t, a)
		}
	}
	// Saved first, refused then: the first package counts.
	two := append(bytes.Clone(whole), wrong[len(header):]...)
	want(t, "a second package that is wrong", r.post("/add-entries", two, octets), 422, "768 to 1024")
	if _, at, _ := specInfo(t, r.post("/add-entries", l.uploadHeader(size, size, nil), octets)); at != 768 {
		t.Errorf("the next entry is %d, want 768", at)
	}
	// Of what is there already as much may come again as one request is to have.
	r.mustUpload(l, 768, size)
	want(t, "too much again", r.post("/add-entries", l.uploadHeader(size-8193, size, nil), octets), 409, "10000\n10000\n")
	want(t, "as much as goes", r.post("/add-entries", l.uploadBody(size-8192, size, nil, 99), octets), 200, "—")
}

func proofLength(l *specLog, start, end int) byte {
	return byte(len(l.subtreeProof(start/256*256, min(end, start/256*256+256), end)))
}

func (r *rig) mustUpload(l *specLog, start, end int) {
	r.t.Helper()
	if a := r.post("/add-entries", l.uploadBody(start, end, nil, 1<<20), octets); a.code != http.StatusOK {
		r.t.Fatalf("%d to %d: %d %s", start, end, a.code, a.body)
	}
}

// What was saved before a body was cut off counts, and the client is told.
func TestPrefixesAreKept(t *testing.T) {
	t.Parallel()
	const size = 1_000
	l := newSpecLog(origin, "prefixes", size)
	for name, tt := range map[string]struct {
		cut  int // bytes that are missing of the third package
		next int
	}{"two packages": {1 << 20, 512}, "two and a half": {100, 512}, "three": {0, 768}} {
		r := newRig(t, quorum.Mirror, l)
		r.addCheckpoint(l, 0, size)
		p := l.packages(0, size)
		body := bytes.Join([][]byte{l.uploadHeader(0, size, nil), p[0], p[1], p[2][:len(p[2])-min(tt.cut, len(p[2]))]}, nil)
		a := r.post("/add-entries", specGzip(body), zipped)
		if end, next, _ := specInfo(t, a); a.code != http.StatusAccepted || end != size || next != tt.next {
			t.Errorf("%s: %d %q", name, a.code, a.body)
		}
		// It is there after a restart.
		r.restart(l)
		if a := r.post("/add-entries", l.uploadBody(tt.next, size, nil, 9), octets); a.code != http.StatusOK {
			t.Errorf("%s, after a restart: %d %s", name, a.code, a.body)
		}
	}
}

// Each refusal of sign-subtree that tlog-witness names, and the signature.
func TestSignSubtree(t *testing.T) {
	t.Parallel()
	const size = 1_000
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		l := newSpecLog(origin, "subtrees", size)
		r := newRig(t, role, l)
		checkpoint := l.text(size) + "\n" + r.mustAdd(l, 0, size)
		request := func(start, end int, checkpoint string) string {
			h := l.mth(start, end)
			return fmt.Sprintf("subtree %d %d\n%s%s\n%s", start, end, specLines([]specHash{h}), specLines(l.subtreeProof(start, end, size)), checkpoint)
		}
		good := request(256, 512, checkpoint)
		stranger := newSpecLog("log.example/unknown", "subtrees", size)
		for name, tt := range map[string]struct {
			body string
			code int
			says string
		}{
			"no range":                   {strings.TrimPrefix(good, "subtree "), 400, "subtree START END"},
			"a number with a zero":       {strings.Replace(good, "256", "0256", 1), 400, "leading zeros"},
			"an empty range":             {strings.Replace(good, "256 512", "256 256", 1), 400, "no entries"},
			"a range that is no subtree": {strings.Replace(good, "256 512", "255 512", 1), 400, "no subtree"},
			"an end before the start":    {strings.Replace(good, "256 512", "512 256", 1), 400, "start"},
			"an end after the tree":      {strings.Replace(good, "256 512", "0 1001", 1), 400, "within"},
			"no hash":                    {"subtree 256 512\n\n" + checkpoint, 400, "hash"},
			"a hash that is none":        {"subtree 256 512\nx\n\n" + checkpoint, 400, "base64"},
			"an unknown log":             {request(256, 512, stranger.checkpoint(size)), 404, "not cosigned here"},
			"the log's signature alone":  {request(256, 512, l.checkpoint(size)), 403, "no cosignature"},
			"a cosignature of another":   {request(256, 512, strings.Replace(checkpoint, "\n1000\n", "\n1001\n", 1)), 403, "does not verify"},
			"another hash":               {strings.Replace(good, specLines([]specHash{l.mth(256, 512)}), specLines([]specHash{l.mth(0, 256)}), 1), 422, "proof"},
			"another range":              {strings.Replace(good, "256 512", "0 256", 1), 422, "proof"},
		} {
			want(t, fmt.Sprintf("%s, %s", role, name), r.post("/sign-subtree", []byte(tt.body), nil), tt.code, tt.says)
		}
		for _, part := range [][2]int{{256, 512}, {0, 1000}, {999, 1000}, {992, 1000}, {0, 7}} {
			a := r.post("/sign-subtree", []byte(request(part[0], part[1], checkpoint)), nil)
			if a.code != http.StatusOK {
				t.Fatalf("%s, %v: %d %s", role, part, a.code, a.body)
			}
			h := l.mth(part[0], part[1])
			text := fmt.Sprintf("%s\n%d\n%s\n", origin, part[1], base64.StdEncoding.EncodeToString(h[:]))
			if times := specVerify(t, r.cosigner.Keys()[:1], a.body, text, part); times[0] != 0 {
				t.Errorf("%s, %v: the time is %d, want none", role, part, times[0])
			}
		}
	}
}

// A witness' key never stands for what only a mirror's says, and the other way round:
// each signs only subtrees of checkpoints under its own keys.
func TestIdentitiesAreDistinct(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "identities", 300)
	mirror, witness := newRig(t, quorum.Mirror, l), newRig(t, quorum.Witness, l)
	lines := witness.mustAdd(l, 0, 300)
	mirror.mustAdd(l, 0, 300)
	body := fmt.Sprintf("subtree 0 300\n%s\n%s\n%s", specLines([]specHash{l.mth(0, 300)}), l.text(300), lines)
	want(t, "at the witness", witness.post("/sign-subtree", []byte(body), nil), 200, "— witness.example/one ")
	want(t, "at the mirror", mirror.post("/sign-subtree", []byte(body), nil), 403, "no cosignature")
	want(t, "a witness takes no entries", witness.post("/add-entries", l.uploadBody(0, 300, nil, 9), octets), 404, "")
	want(t, "a witness has no tiles", witness.get("/"+specOriginHash(origin)+"/tile/0/000.p/1", nil), 404, "")
}

// Methods, and what no log is under.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "monitoring", 600)
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		r := newRig(t, role, l)
		at := "/" + specOriginHash(origin)
		want(t, "before", r.get(at+"/checkpoint", nil), 404, "yet")
		r.addCheckpoint(l, 0, 300)
		if role == quorum.Mirror { // pending is not mirrored
			want(t, "pending", r.get(at+"/checkpoint", nil), 404, "yet")
			r.mustUpload(l, 0, 300)
		}
		a := r.get(at+"/checkpoint", nil)
		if !strings.HasPrefix(a.body, l.checkpoint(300)) || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || a.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %q with %v", role, a.body, a.header)
		}
		for _, at := range specVerify(t, r.cosigner.Keys(), a.body, l.text(300), [2]int{0, 300}) {
			if at != uint64(r.clock.Load()) {
				t.Errorf("%s: the time is %d, want %d", role, at, r.clock.Load())
			}
		}
		want(t, "the origin in capitals", r.get("/"+strings.ToUpper(specOriginHash(origin))+"/checkpoint", nil), 404, "")
		want(t, "another origin", r.get("/"+specOriginHash("x")+"/checkpoint", nil), 404, "")
		want(t, "a get of what is posted to", mustGet(t, r.submission+"/add-checkpoint"), 405, "")
	}
}

func mustGet(t *testing.T, url string) answer {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return answer{code: resp.StatusCode}
}

func specOriginHash(origin string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(origin))) }

// Tiles are those of the mirrored tree: not of what is only pending, partial ones also
// for smaller trees, entries compressed for who takes that.
func TestTiles(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "tiles", 1_000)
	r := newRig(t, quorum.Mirror, l)
	r.mustAdd(l, 0, 300)
	r.addCheckpoint(l, 300, 1_000)
	r.post("/add-entries", l.uploadBody(300, 1_000, nil, 2), octets)
	at := "/" + specOriginHash(origin) + "/tile/"
	for path, code := range map[string]int{
		"0/000": 200, "0/001.p/44": 200, "0/001.p/43": 200, "0/001.p/45": 404, "0/001": 404, "entries/000": 200, "entries/001.p/44": 200,
		"entries/001": 404, "1/000.p/1": 200, "1/000.p/2": 404, "1/000": 404, "2/000.p/1": 404, "0/002.p/1": 404, "64/000": 404, "0/1": 404,
		"0/000.p/256": 404, "0/000.p/0": 404, "8/000.p/1": 404,
	} {
		a := r.get(at+path, nil)
		if a.code != code {
			t.Errorf("%s: %d, want %d", path, a.code, code)
		}
		if code == 200 && (!strings.Contains(a.header.Get("Cache-Control"), "immutable") || a.header.Get("Content-Type") != "application/octet-stream") {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	plain, packed := r.get(at+"entries/000", nil), r.get(at+"entries/000", map[string]string{"Accept-Encoding": "gzip"})
	if packed.header.Get("Content-Encoding") != "gzip" || packed.header.Get("Vary") != "Accept-Encoding" || len(packed.body) >= len(plain.body)/2 || unzip(t, packed.body) != plain.body {
		t.Errorf("compressed: %d of %d bytes, %v", len(packed.body), len(plain.body), packed.header)
	}
}

// Lines that the log's keys did not make are not kept, and not handed on: anyone can add
// them.
func TestForeignLinesAreDropped(t *testing.T) {
	t.Parallel()
	l := newSpecLog(origin, "foreign", 300)
	for _, role := range []quorum.Role{quorum.Mirror, quorum.Witness} {
		r := newRig(t, role, l)
		body := l.addCheckpointBody(0, 300) + "— witness.example/other AAAAAAAAAAAA\n— " + string(role) + ".example/one AAAAAAAAAAAA\n"
		want(t, "with lines of others", r.post("/add-checkpoint", []byte(body), nil), 200, "")
		if role == quorum.Mirror {
			r.mustUpload(l, 0, 300)
		}
		a := r.get("/"+specOriginHash(origin)+"/checkpoint", nil)
		if !strings.HasPrefix(a.body, l.checkpoint(300)) || strings.Count(a.body, "—") != 3 {
			t.Errorf("%s: %q is served", role, a.body)
		}
		specVerify(t, r.cosigner.Keys(), a.body, l.text(300), [2]int{0, 300})
	}
}
