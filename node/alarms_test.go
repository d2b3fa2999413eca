package node

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// A mirror that reaches no peer follows the ledger at a URL, says when it
// becomes stale, and that its publisher has signed two histories.
func TestMirrorOverPlainHTTPRaisesAlarms(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/alarms")
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	publisher := func(contents ...string) string {
		w, err := ledger.OpenWriter(t.Context(), t.TempDir(), skey, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		for _, content := range contents {
			sum := digest.FromString(content)
			if _, err := w.Append(t.Context(), &ledger.AddArtifact{
				Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/alpine:3.20", Digest: sum,
				MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
				Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: sum, Config: sum, Size: 1}},
				Pieces:    sum, Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
			}); err != nil {
				t.Fatal(err)
			}
		}
		s := httptest.NewServer(w.Handler())
		t.Cleanup(s.Close)
		return s.URL
	}
	honest := publisher("one", "two")
	n, err := Start(t.Context(), Config{
		Role: control.Mirror, LedgerKey: vkey, LedgerURLs: []string{honest + "/"}, MaxLedgerAge: 10 * time.Minute,
		DataDir: filepath.Join(t.TempDir(), "data"), P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	deadline := time.Now().Add(20 * time.Second)
	for n.ledger.Size() < 2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d blocks of 2", n.ledger.Size())
		}
		<-time.After(10 * time.Millisecond)
	}
	kinds := func(at time.Time) (out []control.AlarmKind) {
		alarms, err := n.alarms(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range alarms {
			out = append(out, a.Kind)
		}
		return out
	}
	now := time.Now()
	if got := kinds(now); len(got) != 0 {
		t.Errorf("alarms %v on a good day", got)
	}
	if got := kinds(now.Add(11 * time.Minute)); len(got) != 1 || got[0] != control.AlarmLedgerStale {
		t.Errorf("alarms %v of a ledger that was signed 11 minutes ago, want it stale", got)
	}
	// The same key with another history.
	if _, err := n.follower.Sync(t.Context(), ledger.NewSource(publisher("x", "y", "z"), http.DefaultClient)); err == nil {
		t.Error("a second history was followed")
	}
	status, err := n.Status(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Alarms) != 1 || status.Alarms[0].Kind != control.AlarmLedgerForked {
		t.Errorf("the operator is told %+v, want the fork", status.Alarms)
	}
	rec := httptest.NewRecorder()
	n.peerHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/v1/evidence", nil))
	if !strings.Contains(rec.Body.String(), `"kind":"Fork"`) {
		t.Errorf("the evidence at the open port: %s", rec.Body)
	}
}
