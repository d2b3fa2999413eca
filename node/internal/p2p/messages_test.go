package p2p

import (
	"encoding/binary"
	"io"
	"path/filepath"
	"testing"
	"time"
)

// A peer that says it is going to ask the DHT much is not listened to any more,
// and one that asks as nodes do is.
func TestLargeQuestionsForTheDHTAreRefused(t *testing.T) {
	node := member(t, anyPort(t), filepath.Join(t.TempDir(), "key"))
	h := stranger(t, node)
	for size, refused := range map[uint64]bool{1 << 20: true, maxMessage + 1: true, maxMessage / 2: false} {
		s, err := h.NewStream(t.Context(), node.ID(), node.prefix+"/kad/1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(binary.AppendUvarint(nil, size)); err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(3 * time.Second))
		_, err = s.Read(make([]byte, 1))
		timeout, ok := err.(interface{ Timeout() bool })
		if waits := ok && timeout.Timeout(); err == nil || err == io.EOF || waits == refused {
			t.Errorf("a message of %d bytes: %v", size, err)
		}
		_ = s.Reset()
	}
}
