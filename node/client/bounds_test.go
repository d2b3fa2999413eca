package client

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// answering is a source that answers everything alike.
func answering(t *testing.T, encoding string, body []byte) *Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if encoding != "" {
			w.Header().Set("Content-Encoding", encoding)
		}
		_, _ = w.Write(body) // what is refused is not read to its end
	}))
	t.Cleanup(s.Close)
	return New(s.URL, http.DefaultClient)
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// allocated is how many bytes do takes, given back since or not.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Any peer can send what is small on its way and large in memory.
func TestHostileAnswersTakeLittleMemory(t *testing.T) {
	rotations := func(s *Client) error {
		_, err := s.ReadRotations(t.Context())
		return err
	}
	entries := func(s *Client) error {
		_, err := s.ReadEntries(t.Context(), 0, 256)
		return err
	}
	checkpoint := func(s *Client) error {
		_, err := s.ReadEndpoint(t.Context(), "checkpoint")
		return err
	}
	many := []byte("[" + strings.Repeat("1,", 5<<20) + "1]")
	for _, c := range []struct {
		name, encoding string
		body           []byte
		ask            func(*Client) error
		most           uint64
	}{
		{"rotations that are numbers", "", many[:1<<20], rotations, 8 << 20},
		{"rotations that are empty", "", []byte("[" + strings.Repeat("{},", 300_000) + "{}]"), rotations, 8 << 20},
		{"more rotations than a ledger may have", "", []byte("[" + strings.Repeat("{},", ledger.MaxRotations) + "{}]"), rotations, 1 << 20},
		{"rotations, compressed", "gzip", gzipped(t, many), rotations, 1 << 20},
		{"a checkpoint, compressed", "gzip", gzipped(t, make([]byte, 16<<20)), checkpoint, 1 << 20},
		{"empty entries, compressed", "gzip", gzipped(t, make([]byte, 15<<20)), entries, 1 << 20},
		{"entries as large as they may be, compressed", "gzip", gzipped(t, bytes.Repeat([]byte{255}, 15<<20)), entries, 8 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := answering(t, c.encoding, c.body)
			var err error
			took := allocated(func() { err = c.ask(s) })
			if err == nil {
				t.Error("it was taken")
			}
			if took > c.most {
				t.Errorf("%d kB for it, at most %d kB: %v", took>>10, c.most>>10, err)
			}
		})
	}
}

// A source that promises much takes no memory before it keeps the promise.
func TestPromisesTakeNoMemory(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "16000000")
	}))
	t.Cleanup(s.Close)
	source := New(s.URL, http.DefaultClient)
	took := allocated(func() {
		if _, err := source.ReadTiles(t.Context(), []tlog.Tile{{H: torchwood.TileHeight, L: -1, W: torchwood.TileWidth}}); err == nil {
			t.Error("it was taken")
		}
	})
	if took > 1<<20 {
		t.Errorf("%d kB", took>>10)
	}
}

// handedOver is a rotation by a key of the longest origin, in a ledger of one block.
func handedOver(t *testing.T) ledger.Rotation {
	t.Helper()
	origin := strings.Repeat("o", 255)
	skey, previous, err := ledger.GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	_, next, err := ledger.GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := (&ledger.RotateKey{Type: ledger.TypeRotateKey, Version: 1, Previous: previous, Key: next, Time: time.Now().UTC().Truncate(time.Second)}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ledger.ReadSigningKeys(skey)
	if err != nil {
		t.Fatal(err)
	}
	text := torchwood.Checkpoint{Origin: origin, Tree: tlog.Tree{N: 1, Hash: tlog.RecordHash(entry)}}.String()
	signed, err := note.Sign(&note.Note{Text: text}, keys[0].Signer, keys[0].Clock)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Rotation{Entry: string(entry), Proof: string(torchwood.FormatProof(0, nil, signed))}
}

// The longest chain of hand-overs that a ledger may have is within the bounds, and
// of a proof that others have padded the proof is left.
func TestAllRotationsOfALedgerAreTaken(t *testing.T) {
	one := handedOver(t)
	padded := one
	padded.Proof = strings.Replace(padded.Proof, "index 0\n", "extra "+strings.Repeat("AAAA", 500)+"\nindex 0\n", 1)
	padded.Proof += "— " + strings.Repeat("<", 1<<10) + " AAAAAAAAAAA=\n"
	forged := one
	forged.Entry = handedOver(t).Entry
	all := make([]ledger.Rotation, ledger.MaxRotations)
	for i := range all {
		all[i] = padded
	}
	all[0], all[1] = one, forged
	body, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	got, err := answering(t, "", body).ReadRotations(t.Context())
	if err != nil || len(got) != ledger.MaxRotations-1 {
		t.Fatalf("%d rotations, %v, want all but the forged one", len(got), err)
	}
	for i, r := range got {
		if r != one {
			t.Fatalf("rotation %d is not as it was made:\n%s", i, r.Proof)
		}
	}
	if n := ledger.MaxRotations * (len(one.Entry) + len(one.Proof) + 63*45); n > ledger.MaxRotationsJSON {
		t.Errorf("%d bytes are more than the %d that are read", n, ledger.MaxRotationsJSON)
	}
}
