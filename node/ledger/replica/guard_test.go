package replica

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Tessera's background work outlives the writer by a moment, in which the
// ledger may be another process's already.
func TestNothingIsSignedAfterTheEnd(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.mustAppend(t, alpine, "one")
	keys, err := ledger.ReadSigningKeys(p.skey)
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

// Monitoring finds alarms by an attribute, not by words in their messages.
func TestAlarmIsAnAttribute(t *testing.T) {
	t.Parallel()
	skey, _, err := ledger.GenerateKey("example.com/alarms")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ledger.ReadSigningKeys(skey)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	w, err := OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	unknown := fmt.Sprintf("example.com/alarms\n1\n%s\n", emptyRoot)
	if _, err := w.guard(keys)[0].Sign([]byte(unknown)); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a block that is not on this disk was signed: %v", err)
	}
	if !strings.Contains(logged.String(), "level=ERROR") || !strings.Contains(logged.String(), "alarm=true") {
		t.Errorf("logged %q, want an error with alarm=true", logged.String())
	}
}
