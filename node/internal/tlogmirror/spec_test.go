package tlogmirror_test

// A log and its client, written from the texts of signed-note, tlog-checkpoint,
// tlog-cosignature, tlog-witness, tlog-mirror and RFC 6962 alone: none of this
// project's code is used in this file.

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"filippo.io/mldsa"
)

type specHash = [32]byte

// specLog is a log and its key. Entries differ in length.
type specLog struct {
	origin  string
	key     ed25519.PrivateKey
	entries [][]byte
	memo    map[[2]int]specHash
}

func newSpecLog(origin, seed string, n int) *specLog {
	sum := sha256.Sum256([]byte(seed))
	l := &specLog{origin: origin, key: ed25519.NewKeyFromSeed(sum[:]), memo: map[[2]int]specHash{}}
	for i := range n {
		l.entries = append(l.entries, fmt.Appendf(nil, "%s %d %s", seed, i, strings.Repeat("x", i%97)))
	}
	return l
}

// fork is another history of the log: the same up to an entry, and signed by the same
// key.
func (l *specLog) fork(at int) *specLog {
	f := &specLog{origin: l.origin, key: l.key, memo: map[[2]int]specHash{}}
	for i, e := range l.entries {
		if i >= at {
			e = append([]byte("other "), e...)
		}
		f.entries = append(f.entries, e)
	}
	return f
}

func specNode(a, b specHash) specHash {
	return sha256.Sum256(append(append([]byte{1}, a[:]...), b[:]...))
}

// specSplit is the largest power of two below n.
func specSplit(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

// mth is the Merkle Tree Hash of entries (RFC 6962, section 2.1).
func (l *specLog) mth(lo, hi int) specHash {
	if lo == hi {
		return sha256.Sum256(nil)
	}
	if h, ok := l.memo[[2]int{lo, hi}]; ok {
		return h
	}
	var h specHash
	if hi == lo+1 {
		h = sha256.Sum256(append([]byte{0}, l.entries[lo]...))
	} else {
		k := specSplit(hi - lo)
		h = specNode(l.mth(lo, lo+k), l.mth(lo+k, hi))
	}
	l.memo[[2]int{lo, hi}] = h
	return h
}

// subtreeProof is SUBTREE_PROOF(start, end, D_n). From zero it is a consistency proof
// of RFC 6962.
func (l *specLog) subtreeProof(start, end, n int) []specHash {
	if start == end {
		return nil
	}
	return l.subproof(start, end, 0, n, true)
}

func (l *specLog) subproof(start, end, lo, hi int, known bool) []specHash {
	if start == lo && end == hi {
		if known {
			return nil
		}
		return []specHash{l.mth(lo, hi)}
	}
	mid := lo + specSplit(hi-lo)
	switch {
	case end <= mid:
		return append(l.subproof(start, end, lo, mid, known), l.mth(mid, hi))
	case mid <= start:
		return append(l.subproof(start, end, mid, hi, known), l.mth(lo, mid))
	default:
		return append(l.subproof(mid, end, mid, hi, false), l.mth(lo, mid))
	}
}

func specKeyID(name string, kind byte, key []byte) []byte {
	h := sha256.Sum256(append(append([]byte(name+"\n"), kind), key...))
	return h[:4]
}

func (l *specLog) vkey() string {
	public := l.key.Public().(ed25519.PublicKey)
	return fmt.Sprintf("%s+%x+%s", l.origin, specKeyID(l.origin, 1, public), base64.StdEncoding.EncodeToString(append([]byte{1}, public...)))
}

func (l *specLog) text(n int) string {
	root := l.mth(0, n)
	return fmt.Sprintf("%s\n%d\n%s\n", l.origin, n, base64.StdEncoding.EncodeToString(root[:]))
}

// sign signs the text of a checkpoint.
func (l *specLog) sign(text string) string {
	sig := append(specKeyID(l.origin, 1, l.key.Public().(ed25519.PublicKey)), ed25519.Sign(l.key, []byte(text))...)
	return fmt.Sprintf("%s\n— %s %s\n", text, l.origin, base64.StdEncoding.EncodeToString(sig))
}

func (l *specLog) checkpoint(n int) string { return l.sign(l.text(n)) }

func specLines(hashes []specHash) string {
	var out strings.Builder
	for _, h := range hashes {
		out.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	return out.String()
}

// addCheckpointBody is the body of add-checkpoint.
func (l *specLog) addCheckpointBody(old, n int) string {
	var proof []specHash
	if old > 0 && old < n {
		proof = l.subtreeProof(0, old, n)
	}
	return fmt.Sprintf("old %d\n%s\n%s", old, specLines(proof), l.checkpoint(n))
}

// uploadHeader is how the body of add-entries begins.
func (l *specLog) uploadHeader(start, end int, ticket []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(l.origin)))
	out = append(out, l.origin...)
	out = binary.BigEndian.AppendUint64(out, uint64(start))
	out = binary.BigEndian.AppendUint64(out, uint64(end))
	out = binary.BigEndian.AppendUint16(out, uint16(len(ticket)))
	return append(out, ticket...)
}

// packages is the canonical sequence of packages of an upload.
func (l *specLog) packages(start, end int) (out [][]byte) {
	if start == end {
		return nil
	}
	roundedStart, roundedEnd := start/256*256, (end+255)/256*256
	for i := range (roundedEnd - roundedStart) / 256 {
		lo, hi := max(start, roundedStart+i*256), min(end, roundedStart+(i+1)*256)
		var p []byte
		for _, e := range l.entries[lo:hi] {
			p = binary.BigEndian.AppendUint16(p, uint16(len(e)))
			p = append(p, e...)
		}
		proof := l.subtreeProof(roundedStart+i*256, hi, end)
		p = append(p, byte(len(proof)))
		for _, h := range proof {
			p = append(p, h[:]...)
		}
		out = append(out, p)
	}
	return out
}

// uploadBody is the body of add-entries with at most n packages.
func (l *specLog) uploadBody(start, end int, ticket []byte, n int) []byte {
	packages := l.packages(start, end)
	return append(l.uploadHeader(start, end, ticket), bytes.Join(packages[:min(n, len(packages))], nil)...)
}

func specGzip(data []byte) []byte {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	_, _ = zw.Write(data) // in memory
	_ = zw.Close()
	return out.Bytes()
}

func unzip(t *testing.T, data string) string {
	t.Helper()
	zr, err := gzip.NewReader(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// answer is what a mirror or witness answered.
type answer struct {
	code   int
	header http.Header
	body   string
}

// specPost posts to a submission prefix. The error is that of a broken connection.
func specPost(client *http.Client, url string, body io.Reader, header map[string]string) (answer, error) {
	req, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

// specInfo reads the body of a 202 or 409 of add-entries.
func specInfo(t *testing.T, a answer) (size, next int, ticket []byte) {
	t.Helper()
	lines := strings.Split(a.body, "\n")
	if len(lines) != 4 || lines[3] != "" || a.header.Get("Content-Type") != "text/x.tlog.mirror-info" {
		t.Fatalf("%d with %q as %q: want three lines of text/x.tlog.mirror-info", a.code, a.body, a.header.Get("Content-Type"))
	}
	size, err1 := strconv.Atoi(lines[0])
	next, err2 := strconv.Atoi(lines[1])
	ticket, err3 := base64.StdEncoding.DecodeString(lines[2])
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatalf("mirror-info %q: %v, %v, %v", a.body, err1, err2, err3)
	}
	return size, next, ticket
}

// specVerify fails the test unless each of some verifier keys has signed a text among
// cosignature lines, and returns their times.
func specVerify(t *testing.T, vkeys []string, lines, text string, subtree [2]int) (times []uint64) {
	t.Helper()
	for _, vkey := range vkeys {
		if !specIsBy(t, vkey, lines, text, subtree) {
			t.Errorf("no signature of %.60s over %q in %.200q", vkey, text, lines)
			return []uint64{0}
		}
		times = append(times, binary.BigEndian.Uint64(specLine(t, vkey, lines)))
	}
	return times
}

// specIsBy tells whether a verifier key has signed a text among cosignature lines.
func specIsBy(t *testing.T, vkey, lines, text string, subtree [2]int) bool {
	t.Helper()
	parts := strings.Split(text, "\n")
	root, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	name, key := specKey(t, vkey)
	sig := specLine(t, vkey, lines)
	if len(sig) < 8 {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	if key[0] == 4 {
		return ed25519.Verify(key[1:], fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text), sig[8:])
	}
	return specVerifyMLDSA(t, key[1:], specMessage(name, at, parts[0], subtree, root), sig[8:])
}

// specKey reads a verifier key: its name, and its type with the public key.
func specKey(t *testing.T, vkey string) (name string, key []byte) {
	t.Helper()
	name, rest, _ := strings.Cut(vkey, "+")
	id, data, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(data)
	if err != nil || fmt.Sprintf("%x", specKeyID(name, key[0], key[1:])) != id {
		t.Fatalf("verifier key %q: %v", vkey, err)
	}
	return name, key
}

// specLine finds a key's signature, with its time, among lines.
func specLine(t *testing.T, vkey, lines string) []byte {
	t.Helper()
	name, key := specKey(t, vkey)
	for line := range strings.Lines(lines) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(words) != 3 || words[0] != "—" || words[1] != name || !strings.HasSuffix(line, "\n") {
			continue
		}
		if raw, err := base64.StdEncoding.DecodeString(words[2]); err == nil && bytes.HasPrefix(raw, specKeyID(name, key[0], key[1:])) {
			return raw[4:]
		}
	}
	return nil
}

// specMessage is the cosigned_message of tlog-cosignature.
func specMessage(name string, at uint64, origin string, subtree [2]int, root []byte) []byte {
	out := append([]byte("subtree/v1\n\x00"), byte(len(name)))
	out = append(out, name...)
	out = binary.BigEndian.AppendUint64(out, at)
	out = append(append(out, byte(len(origin))), origin...)
	out = binary.BigEndian.AppendUint64(out, uint64(subtree[0]))
	out = binary.BigEndian.AppendUint64(out, uint64(subtree[1]))
	return append(out, root...)
}

func specVerifyMLDSA(t *testing.T, key, message, sig []byte) bool {
	t.Helper()
	public, err := mldsa.NewPublicKey(mldsa.MLDSA44(), key)
	if err != nil {
		t.Fatal(err)
	}
	return mldsa.Verify(public, message, sig, nil) == nil
}
