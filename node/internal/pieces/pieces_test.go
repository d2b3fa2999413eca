package pieces

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func content(t *testing.T, size int64) []byte {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{}).Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// describe writes a blob to a describer, so many bytes at a time.
func describe(t *testing.T, data []byte, each int) Blob {
	t.Helper()
	d := NewDescriber()
	for part := range slices.Chunk(data, each) {
		if n, err := d.Write(part); n != len(part) || err != nil {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(part), err)
		}
	}
	return d.Blob("text/plain")
}

// However the bytes are cut, the description is the same.
func TestDescribeInParts(t *testing.T) {
	for _, size := range []int64{1, Size, Size + 1, 2 * Size, 3*Size - 1} {
		data := content(t, size)
		want := describe(t, data, int(size))
		for _, each := range []int{1000, 1<<18 + 1, Size, Size + 1} {
			if diff := cmp.Diff(want, describe(t, data, each)); diff != "" {
				t.Errorf("%d bytes, %d at a time (-at once +in parts):\n%s", size, each, diff)
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	for _, size := range []int64{0, 1, Size - 1, Size, Size + 1, 2 * Size, 3*Size - 1, 3 * Size} {
		data := content(t, size)
		b := describe(t, data, int(size)+1)
		if b.Digest != digest.FromBytes(data) || b.Size != size {
			t.Errorf("%d bytes: described as %+v", size, b)
		}
		l := &List{Version: 1, PieceSize: Size, Blobs: []Blob{b}}
		encoded, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(encoded); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		var whole int64
		for i := range b.Count() {
			offset, length := b.Range(i)
			whole += length
			if err := b.Check(i, data[offset:offset+length]); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			if b.Check(i, append([]byte("x"), data[offset:offset+length]...)) == nil {
				t.Errorf("%d bytes: a wrong piece %d was accepted", size, i)
			}
		}
		if whole != size {
			t.Errorf("the pieces of %d bytes have %d", size, whole)
		}
	}
}

// What parses is canonical: encoding it again gives the same bytes.
func FuzzParse(f *testing.F) {
	d := digest.FromString("x").String()
	f.Add([]byte(`{"version":1,"pieceSize":4194304,"blobs":[{"digest":"` + d + `","size":1,"mediaType":"text/plain"}]}`))
	f.Add([]byte(`{"version":1,"pieceSize":4194304,"blobs":[{"digest":"` + d + `","size":4194305,"mediaType":"","pieces":["` + d + `","` + d + `"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		again, err := l.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q parses, but encodes as %q, %v", data, again, err)
		}
	})
}
