package controllers_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A node that answers nonsense on the control API is neither believed nor able
// to hold the operator up, and is believed again when it is itself again.
func TestNodesThatAnswerNonsense(t *testing.T) {
	t.Parallel()
	c := testCluster(t)
	honest := fixtures.NewBook(t).Add(t, "a")
	status := func(change func(*control.Status)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s := &control.Status{Role: control.Publisher, PeerID: "12D3KooW", Ledger: honest.Status(t, 0)}
			change(s)
			_ = json.NewEncoder(w).Encode(s)
		}
	}
	raw := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		keys   bool // of another node
		reason string
	}{
		"garbage":       {raw("\x00\xff\xfe not JSON"), false, v1alpha1.ReasonNodeUnreachable},
		"another page":  {raw("<html><body>It works!</body></html>"), false, v1alpha1.ReasonNodeUnreachable},
		"null":          {raw("null"), false, "BadSignature"},
		"wrong types":   {raw(`{"role":7,"peers":"many","ledger":[]}`), false, v1alpha1.ReasonNodeUnreachable},
		"deep nesting":  {raw(`{"alarms":` + strings.Repeat("[", 1<<20)), false, v1alpha1.ReasonNodeUnreachable},
		"a huge number": {raw(`{"peers":` + strings.Repeat("9", 1000) + `}`), false, v1alpha1.ReasonNodeUnreachable},
		"endless":       {endless, false, v1alpha1.ReasonNodeUnreachable},
		"slow":          {slow, false, v1alpha1.ReasonNodeUnreachable},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
		}, false, v1alpha1.ReasonNodeUnreachable},
		"a refusal":          {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"reason":"<b>"}`, http.StatusTeapot) }, false, v1alpha1.ReasonNodeUnreachable},
		"another node's key": {status(func(*control.Status) {}), true, v1alpha1.ReasonNodeUnreachable},
		"no ledger key":      {status(func(s *control.Status) { s.Ledger.Key = "" }), false, "BadSignature"},
		"a huge checkpoint":  {status(func(s *control.Status) { s.Ledger.Checkpoint = strings.Repeat("x", 1<<20) }), false, "BadSignature"},
		"a huge proof": {status(func(s *control.Status) {
			s.Ledger.Rotations = slicesOf(control.Rotation{Entry: strings.Repeat("x", 1<<10), Proof: "y"}, 1000)
			s.Ledger.Checkpoint += "x"
		}), false, "BadSignature"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := c.namespace(t)
			publisher := publisherNode(ns, "http://127.0.0.1:1")
			c.create(t, publisher)
			liar := c.runLiar(t, publisher, tc.answer, tc.keys)
			got := c.awaitReason(t, publisher, v1alpha1.ConditionLedgerVerified, tc.reason)
			if got.Status == metav1.ConditionTrue || publisher.Status.Ledger != nil || publisher.Status.PeerID != "" {
				t.Errorf("it was believed: %+v, %+v", got, publisher.Status)
			}
			if data, err := json.Marshal(publisher.Status); err != nil || len(data) > 16<<10 {
				t.Errorf("the status has %d bytes, %v", len(data), err)
			}
			liar()
			c.runPod(t, publisher, "")
			c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
		})
	}
}

// What a liar says beside a good ledger is bounded too.
func TestNodesThatExaggerate(t *testing.T) {
	c, ns := ownNamespace(t)
	b := fixtures.NewBook(t).Add(t, "a")
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	art := &v1alpha1.Artifact{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "by-hand"},
		Spec: v1alpha1.ArtifactSpec{Image: "docker.io/library/alpine:1", Digest: "sha256:" + strings.Repeat("0", 64),
			PublisherRef: v1alpha1.LocalReference{Name: "publisher"}},
	}
	c.create(t, publisher, art)
	c.runLiar(t, publisher, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/publish" {
			_ = json.NewEncoder(w).Encode(control.PublishResponse{Block: &control.Block{Height: 1 << 60, Entry: strings.Repeat("e", 1<<20), Proof: "p"}})
			return
		}
		s := control.Status{Role: control.Publisher, PeerID: strings.Repeat("Q", 1<<20), Peers: 1 << 40, Addrs: slicesOf("/ip4/192.0.2.1/tcp/1", 10000), Ledger: b.Status(t, 0)}
		s.Alarms = slicesOf(control.Alarm{Kind: "Invented", Message: strings.Repeat("m", 1000)}, 1000)
		_ = json.NewEncoder(w).Encode(s)
	}, false)
	c.awaitCondition(t, publisher, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	c.awaitReason(t, art, v1alpha1.ConditionPublished, "InvalidBlock")
	c.get(t, publisher)
	if data, err := json.Marshal(publisher.Status); err != nil || len(data) > 16<<10 || publisher.Status.PeerID != "" || publisher.Status.Peers > 1<<20 {
		t.Errorf("the status has %d bytes, %v; %d peers", len(data), err, publisher.Status.Peers)
	}
	if art.Status.Block != nil {
		t.Error("an impossible block is in the Artifact's status")
	}
}

func slicesOf[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func endless(w http.ResponseWriter, r *http.Request) {
	chunk := []byte(`{"peerID":"` + strings.Repeat("a", 1<<16))
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func slow(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// runLiar puts a pod in place whose control API answers what it likes, with the
// keys that the operator gave to it, or others.
func (c *cluster) runLiar(t *testing.T, n *v1alpha1.PyrsiaNode, answer http.HandlerFunc, otherKeys bool) (stop func()) {
	t.Helper()
	template := c.awaitTemplate(t, n)
	ip, dir := nextIP(), t.TempDir()
	keys, err := control.ReadKeys(c.secretFile(t, n, template, dir, "/keys/"+desired.NodeKeyFile), c.secretFile(t, n, template, dir, "/keys/"+desired.OperatorKeyFile))
	must(t, err)
	if otherKeys {
		if _, keys.Own, err = ed25519.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	config, err := keys.ServerTLS()
	must(t, err)
	l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(control.Port)))
	must(t, err)
	server := &http.Server{Handler: answer, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(tls.NewListener(l, config)) }()
	stopped := false
	pod := c.createPod(t, n, template, ip)
	stop = func() {
		if !stopped {
			stopped = true
			_ = server.Close()
			c.deletePod(pod)
		}
	}
	t.Cleanup(stop)
	return stop
}

// awaitReason waits for a condition with a reason, whatever its status.
func (c *cluster) awaitReason(t *testing.T, obj status.Object, condition, reason string) metav1.Condition {
	t.Helper()
	var got metav1.Condition
	c.until(t, obj, func() error {
		for _, cond := range *obj.Conditions() {
			if cond.Type == condition && cond.Reason == reason {
				got = cond
				return nil
			}
		}
		return fmt.Errorf("no %s with reason %s:\n%s", condition, reason, conditionsText(*obj.Conditions()))
	})
	return got
}
