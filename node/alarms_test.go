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

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
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
		w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, quiet)
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
		Role: control.Mirror, LedgerKey: vkey, LedgerURLs: []string{honest + "/"}, MaxLedgerAge: 10 * time.Minute, RefuseStaleTags: true,
		DataDir: filepath.Join(t.TempDir(), "data"), P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	deadline := time.Now().Add(testTimeout)
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
	// Its tags are resolved, until it is stale; digests are served on.
	for at, want := range map[time.Time]bool{now: false, now.Add(11 * time.Minute): true} {
		n.clients.mirror.Stale = func() error { return n.refuseStale(at) }
		rec := httptest.NewRecorder()
		n.clients.mirror.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/v2/library/alpine/manifests/3.20", nil))
		if refused := rec.Code == http.StatusForbidden && strings.Contains(rec.Body.String(), "pull by digest"); refused != want {
			t.Errorf("a tag %s from now: %d %s, want a refusal: %v", at.Sub(now), rec.Code, rec.Body, want)
		}
		rec = httptest.NewRecorder()
		n.clients.mirror.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/v2/library/alpine/manifests/"+digest.FromString("two").String(), nil))
		if rec.Code == http.StatusForbidden {
			t.Errorf("a digest %s from now: %d %s", at.Sub(now), rec.Code, rec.Body)
		}
	}
	// The same key with another history.
	if _, err := n.role.(*mirrorRole).follower.Sync(t.Context(), client.New(publisher("x", "y", "z"), http.DefaultClient)); err == nil {
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
	// Somebody has looked at it: the evidence stays, and the alarm ends.
	if n.unacknowledged(control.AlarmLedgerForked) != 1 {
		t.Error("the metric does not show the alarm")
	}
	if err := replica.Acknowledge(filepath.Join(n.config.DataDir, "ledger"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := kinds(time.Now()); len(got) != 0 || n.unacknowledged(control.AlarmLedgerForked) != 0 {
		t.Errorf("alarms %v after they were acknowledged", got)
	}
}

// A mirror raises an alarm for each key to which the ledger is handed over, serves
// on, and is content once the key is pinned, or the alarm acknowledged.
func TestNewKeyIsAnAlarm(t *testing.T) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/keys")
	if err != nil {
		t.Fatal(err)
	}
	next, nextKey, err := ledger.GenerateKey("ledger.example/keys")
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey+"\n"+next, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := httptest.NewServer(w.Handler())
	defer s.Close()
	data := filepath.Join(t.TempDir(), "data")
	start := func(key string) *Node {
		n, err := Start(t.Context(), Config{
			Role: control.Mirror, LedgerKey: key, LedgerURLs: []string{s.URL}, DataDir: data,
			P2PListen: []string{"/ip4/127.0.0.1/tcp/0"}, Logger: quiet,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		for deadline := time.Now().Add(testTimeout); n.ledger.Size() < 1; <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the ledger was not followed")
			}
		}
		return n
	}
	n := start(vkey)
	status, err := n.Status(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Alarms) != 1 || status.Alarms[0].Kind != control.AlarmLedgerKeyChanged || status.Alarms[0].Since.IsZero() || status.Alarms[0].Keys[0] != nextKey {
		t.Errorf("the operator is told %+v, want the new key", status.Alarms)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(nextKey) // which is pinned
	if alarms, err := n.alarms(time.Now()); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %+v, %v of a key that is pinned", alarms, err)
	}
}
