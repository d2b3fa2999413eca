package upstream

import (
	"errors"
	"io"
	"sync"
)

// collectAtLeast is how much of a blob is collected before it is written: what comes
// in one read of a connection is often a few kilobytes, and each write is a system
// call, and wakes up the hashes.
const collectAtLeast = 64 << 10

// buffers are large enough for few calls, and small enough to stay in the processor's
// cache while the disk and two hashes take what is in them.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// collect is io.Copy in larger parts. All that came is written, whatever ends it.
func collect(w io.Writer, r io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for err == nil {
		have := 0
		for have < collectAtLeast && err == nil {
			var got int
			got, err = r.Read(buf[have:])
			have += got
		}
		wrote, werr := w.Write(buf[:have])
		n += int64(wrote)
		if werr != nil {
			return n, werr
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
