package node

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// refusedAs is the answer that a client gets.
type refusedAs struct {
	status int
	code   string
	text   string // part of the message
}

// expectRefusal asks by GET and HEAD.
func (s *started) expectRefusal(t *testing.T, path string, want refusedAs) {
	t.Helper()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp, body := s.ask(t, method, path)
		if resp.StatusCode != want.status || resp.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s %s: %s, want %d: %s", method, path, resp.Status, want.status, body)
		}
		if method == http.MethodHead {
			continue
		}
		var told struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &told); err != nil || len(told.Errors) != 1 {
			t.Fatalf("%s: %v: %s", path, err, body)
		}
		if e := told.Errors[0]; e.Code != want.code || !strings.Contains(e.Message, want.text) {
			t.Errorf("%s: %s: %s, want %s: %s", path, e.Code, e.Message, want.code, want.text)
		}
	}
}

// A refusal because of the ledger is shown where users look: newer clients that
// name the registry show the message of a 403. The others, and those that go on
// to the registry, get 404 for what a registry does not have.
func TestReasonsAreToldWhereUsersLook(t *testing.T) {
	registry := dockerRegistry(t)
	push(t, registry.Addr, "bad:1", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "bad:1")
	if _, err := publisher.role.(*publisherRole).Writer.Revoke(t.Context(), 0, "contains malware", time.Now()); err != nil {
		t.Fatal(err)
	}
	strict := newMirror(t, publisher)
	fallback := start(t, Config{Role: control.Mirror, LedgerKey: publisher.ledger.Key(), Bootstrap: []string{publisher.address()}, MirrorFallback: true})
	const missing = "/v2/library/missing/manifests/1"
	blob := "/v2/library/bad/blobs/" + digest.FromString("?").String()
	withdrawn := refusedAs{http.StatusForbidden, "UNSUPPORTED", "contains malware"}
	for _, m := range []*started{strict, fallback} {
		m.awaitBlocks(t, 2)
		m.expectRefusal(t, missing, refusedAs{http.StatusNotFound, "MANIFEST_UNKNOWN", "is not on the ledger"})
		m.expectRefusal(t, blob, refusedAs{http.StatusNotFound, "BLOB_UNKNOWN", "is not on the ledger"})
		m.expectRefusal(t, "/v2/library/bad/manifests/1", withdrawn)
		m.expectRefusal(t, "/v2/library/bad/manifests/1?ns=docker.io", withdrawn)
	}
	strict.expectRefusal(t, missing+"?ns=docker.io", refusedAs{http.StatusForbidden, "UNSUPPORTED", "is not on the ledger"})
	strict.expectRefusal(t, blob+"?ns=docker.io", refusedAs{http.StatusForbidden, "UNSUPPORTED", "is not on the ledger"})
	fallback.expectRefusal(t, missing+"?ns=docker.io", refusedAs{http.StatusNotFound, "MANIFEST_UNKNOWN", "is not on the ledger"})
	fallback.expectRefusal(t, blob+"?ns=docker.io", refusedAs{http.StatusNotFound, "BLOB_UNKNOWN", "is not on the ledger"})
}

// While no node with the content can be reached, the ledger still resolves the
// tag. The content is refused with a different error than unpublished content,
// naming the nodes that had it, and the node raises an alarm.
func TestHoldersAreGone(t *testing.T) {
	registry := dockerRegistry(t)
	index, d := push(t, registry.Addr, "app:1", 2<<20)
	raw, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "app:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	unavailable := func() bool {
		alarms, err := m.alarms(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(alarms, func(a control.Alarm) bool { return a.Kind == control.AlarmContentUnavailable })
	}
	waitFor(t, func() error {
		if p, ok := m.host.Peer(publisher.host.ID()); !ok || !p.Complete() {
			return errors.New("the publisher has not said that it has everything")
		}
		return nil
	})
	id := publisher.host.ID().String()
	if err := publisher.Node.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		if len(m.host.Peers()) > 0 {
			return errors.New("the publisher is still connected")
		}
		return nil
	})
	if unavailable() {
		t.Error("content is said to be unavailable before anybody has asked for it")
	}
	for _, reference := range []string{"1", d.String(), "1?ns=docker.io"} {
		resp, body := m.ask(t, http.MethodHead, "/v2/library/app/manifests/"+reference)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Docker-Content-Digest") != d.String() ||
			resp.ContentLength != int64(len(raw)) || resp.Header.Get("Content-Type") != "application/vnd.oci.image.index.v1+json" {
			t.Errorf("HEAD %s: %s %v %s", reference, resp.Status, resp.Header, body)
		}
	}
	for path, want := range map[string]refusedAs{
		"manifests/1":                                               {http.StatusBadGateway, "UNAVAILABLE", id + " (last at /ip4/127.0.0.1/tcp/"},
		"manifests/1?ns=docker.io":                                  {http.StatusBadGateway, "UNAVAILABLE", id},
		"blobs/" + layersOf(t, index)[0].String():                   {http.StatusNotFound, "BLOB_UNKNOWN", "is not known now"},
		"manifests/" + manifestsOf(t, index)[0].String():            {http.StatusBadGateway, "UNAVAILABLE", id},
		"blobs/" + layersOf(t, index)[0].String() + "?ns=docker.io": {http.StatusBadGateway, "UNAVAILABLE", id},
	} {
		resp, body := m.ask(t, http.MethodGet, "/v2/library/app/"+path)
		if resp.StatusCode != want.status || !strings.Contains(string(body), want.code) || !strings.Contains(string(body), want.text) {
			t.Errorf("%s: %s %s, want %+v", path, resp.Status, body, want)
		}
	}
	if !unavailable() {
		t.Error("the node does not say that content is unavailable")
	}
}
