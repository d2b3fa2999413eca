package ledger

import (
	"bytes"
	"errors"
	"testing"
)

// Tessera's background work outlives the writer by a moment, in which the
// ledger may be another process's already.
func TestNothingIsSignedAfterTheEnd(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	keys, err := readSigningKeys(p.skey)
	if err != nil {
		t.Fatal(err)
	}
	head, _ := p.Head()
	body, _, _ := bytes.Cut(head.Signed, []byte("\n\n"))
	text := append(body, '\n')
	for _, s := range p.guard(keys) {
		if _, err := s.Sign(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.guard(keys) {
		if _, err := s.Sign(text); !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
	}
}
