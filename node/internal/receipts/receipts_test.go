package receipts

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func book(t *testing.T, file string) *Book {
	t.Helper()
	return Open(file, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

func TestPullsOfOneImageAreOneReceipt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receipts.json")
	b := book(t, file)
	p := Pull{Image: "docker.io/library/alpine:3", Digest: "sha256:aa", Block: 7, Client: "10.0.0.1", Agent: "containerd/2.4"}
	b.Record(p, noon)
	b.Record(Pull{Image: "docker.io/library/busybox:1", Digest: "sha256:bb", Block: 8}, noon)
	mark := b.Since(0, 10)[1].Sequence
	p.Client, p.Agent = "10.0.0.2", strings.Repeat("x", 1000)
	b.Record(p, noon.Add(time.Minute))
	p.Again = true
	b.Record(p, noon.Add(time.Hour))

	want := control.Receipt{
		Image: p.Image, Digest: p.Digest, Block: 7, Pulls: 2,
		FirstPulled: noon, LastPulled: noon.Add(time.Hour), Client: "10.0.0.2", Agent: strings.Repeat("x", maxAgent),
	}
	check := func(b *Book) {
		t.Helper()
		got := b.Since(mark, 10)
		if len(got) != 1 {
			t.Fatalf("%d receipts since the mark, want 1", len(got))
		}
		got[0].Sequence = 0
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Error(diff)
		}
		if all := b.Since(0, 10); len(all) != 2 || all[0].Image != "docker.io/library/busybox:1" {
			t.Errorf("all: %+v", all)
		}
		if one := b.Since(0, 1); len(one) != 1 || one[0].Image != "docker.io/library/busybox:1" {
			t.Errorf("the first of all: %+v", one)
		}
	}
	check(b)
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	check(book(t, file))
}

func TestTheOldestGoes(t *testing.T) {
	b := book(t, filepath.Join(t.TempDir(), "receipts.json"))
	for i := range Max + 10 {
		b.Record(Pull{Image: fmt.Sprint(i), Digest: "d"}, noon)
	}
	if all := b.Since(0, 2*Max); len(all) != Max || all[0].Image != "10" {
		t.Errorf("%d receipts, the first of %s", len(all), all[0].Image)
	}
}

func TestSequenceGrowsAcrossALostSave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receipts.json")
	b := book(t, file)
	b.Record(Pull{Image: "a", Digest: "d"}, noon)
	told := b.Since(0, 1)[0].Sequence // and then the node dies
	b = book(t, file)
	b.Record(Pull{Image: "b", Digest: "d"}, noon)
	if got := b.Since(told, 10); len(got) != 1 || got[0].Image != "b" {
		t.Errorf("after the crash: %+v", got)
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receipts.json")
	if err := os.WriteFile(file, []byte(`[{"image":`), 0o644); err != nil {
		t.Fatal(err)
	}
	b := book(t, file)
	b.Record(Pull{Image: "a", Digest: "d"}, noon)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Run(ctx) // saves at its end
	if got := book(t, file).Since(0, 10); len(got) != 1 {
		t.Errorf("after a new start: %+v", got)
	}
}
