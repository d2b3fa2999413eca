package upstream

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestCollect(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		r    io.Reader
		want error
	}{
		"at once":              {bytes.NewReader(data), nil},
		"halves":               {iotest.HalfReader(bytes.NewReader(data)), nil},
		"end with the bytes":   {iotest.DataErrReader(bytes.NewReader(data)), nil},
		"ends in the middle":   {io.MultiReader(bytes.NewReader(data), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		"breaks in the middle": {io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken)), broken},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			n, err := collect(&got, tc.r)
			if !errors.Is(err, tc.want) || n != int64(len(data)) || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes, %v: want all %d, %v", n, err, len(data), tc.want)
			}
		})
	}
	small := 0
	_, err := collect(writerFunc(func(p []byte) (int, error) {
		if len(p) < collectAtLeast {
			small++
		}
		return len(p), nil
	}), iotest.OneByteReader(bytes.NewReader(data)))
	if err != nil || small != 1 {
		t.Errorf("%d small writes, %v: want the last one alone", small, err)
	}
	if n, err := collect(writerFunc(func(p []byte) (int, error) { return 1, broken }), bytes.NewReader(data)); n != 1 || !errors.Is(err, broken) {
		t.Errorf("to a disk that fails: %d bytes, %v", n, err)
	}
}
