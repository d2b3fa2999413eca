package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// What the publisher withdraws is refused, and why; the history stays.
func TestRevokedImagesAreRefused(t *testing.T) {
	registry := dockerRegistry(t)
	index, d := push(t, registry.Addr, "bad:1", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "bad:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	if _, err := m.pull(t.Context(), "bad:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := publisher.role.(*publisherRole).Writer.Revoke(t.Context(), 0, "contains malware", time.Now()); err != nil {
		t.Fatal(err)
	}
	m.awaitBlocks(t, 2)
	for _, path := range []string{"manifests/1", "manifests/" + d.String(), "manifests/" + manifestsOf(t, index)[0].String()} {
		resp, body := m.ask(t, "GET", "/v2/library/bad/"+path)
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "withdrawn by the publisher in block 1: contains malware") {
			t.Errorf("%s: %s %.300s", path, resp.Status, body)
		}
	}
	if resp, _ := m.ask(t, "GET", "/v2/library/bad/blobs/"+layersOf(t, index)[0].String()); resp.StatusCode != http.StatusForbidden {
		t.Errorf("layer: %s", resp.Status)
	}
	if resp, body := m.ask(t, "GET", "/v2/library/bad/referrers/"+d.String()); resp.StatusCode != http.StatusOK {
		t.Errorf("referrers: %s %.300s", resp.Status, body)
	}
	_, err := publisher.control.Publish(t.Context(), control.PublishRequest{Image: "bad:1", Digest: d.String()})
	if refusal, ok := errors.AsType[*control.Error](err); !ok || refusal.Reason != control.ReasonRevoked {
		t.Errorf("published again: %v, want %s", err, control.ReasonRevoked)
	}
}

// One platform can be withdrawn alone: its manifest, its config and what no
// other image has of its layers, at mirrors and for peers. A tag whose newest
// block is withdrawn is not listed, and is not answered with an older one.
func TestWithdrawnPlatform(t *testing.T) {
	registry := dockerRegistry(t)
	index, d := push(t, registry.Addr, "app:1", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "app:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	if _, err := m.pull(t.Context(), "app:1"); err != nil {
		t.Fatal(err)
	}
	revoke := func(d digest.Digest) {
		t.Helper()
		resp, err := publisher.control.Revoke(t.Context(), control.RevokeRequest{Image: "app:1", Digest: d.String(), Block: -1, Reason: "built on a bad machine"})
		if err != nil || len(resp.Tags)+len(resp.Indexes) != 1 {
			t.Fatalf("withdrawn: %+v, %v", resp, err)
		}
		m.awaitBlocks(t, publisher.ledger.Size())
	}
	platforms := manifestsOf(t, index)
	layers := layersOf(t, index) // two of each platform
	revoke(platforms[0])
	check := func(what, path string, status int) {
		t.Helper()
		resp, body := m.ask(t, "GET", "/v2/library/app/"+path)
		if resp.StatusCode != status || status == http.StatusForbidden && !strings.Contains(string(body), "built on a bad machine") {
			t.Errorf("%s: %s %.300s, want %d", what, resp.Status, body, status)
		}
	}
	check("the index", "manifests/1", http.StatusOK)
	check("the withdrawn platform", "manifests/"+platforms[0].String(), http.StatusForbidden)
	check("its layer", "blobs/"+layers[0].String(), http.StatusForbidden)
	check("the other platform", "manifests/"+platforms[1].String(), http.StatusOK)
	check("its layer", "blobs/"+layers[2].String(), http.StatusOK)
	for blob, want := range map[digest.Digest]int{d: 200, platforms[0]: 404, layers[0]: 404, platforms[1]: 200, layers[2]: 200} {
		for _, n := range []*started{publisher, m} {
			waitFor(t, func() error {
				resp, err := http.Get("http://" + n.OpenAddr + "/blobs/sha256/" + blob.Encoded())
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != want {
					return fmt.Errorf("peers get %s of %s, want %d", resp.Status, blob, want)
				}
				return nil
			})
		}
	}
	revoke(d)
	for _, path := range []string{"manifests/1", "manifests/" + d.String(), "manifests/" + platforms[1].String(), "blobs/" + layers[2].String()} {
		check("after the whole image", path, http.StatusForbidden)
	}
	if resp, body := m.ask(t, "GET", "/v2/library/app/tags/list"); !strings.Contains(string(body), `"tags":[]`) {
		t.Errorf("tags: %s %s", resp.Status, body)
	}
	if resp, body := m.ask(t, "GET", "/v2/library/app/manifests/1?ns=registry-1.docker.io"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("by the registry's other name: %s %s", resp.Status, body)
	}
}

// A pull goes on after its mirror's restart, although the client asks for no
// manifest again and piece lists of other images are out of reach. Of what may
// be in those it is not said that it is not on the ledger.
func TestLayersAfterARestart(t *testing.T) {
	registry := dockerRegistry(t)
	push(t, registry.Addr, "app:1", 1<<10)
	index, _ := push(t, registry.Addr, "app:2", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "app:1")
	publisher.publish(t, "app:2")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 2)
	if _, err := m.pull(t.Context(), "app:2"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Node.Close(), publisher.Node.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := Start(t.Context(), m.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if resp, body := m.ask(t, "GET", "/v2/library/app/blobs/"+layersOf(t, index)[0].String()); resp.StatusCode != http.StatusOK {
		t.Errorf("layer: %s %.300s", resp.Status, body)
	}
	resp, body := m.ask(t, "GET", "/v2/library/app/blobs/"+digest.FromString("?").String())
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "is not known now") {
		t.Errorf("what may be in a list out of reach: %s %.300s", resp.Status, body)
	}
}

// ask makes one request of the mirror port.
func (s *started) ask(t *testing.T, method, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.MirrorAddr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// A mirror knows which registries containerd asks it for, whatever it answers.
func TestMirrorKnowsWhatContainerdAsksFor(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	m := newMirror(t, publisher)
	asked := func() (out client.Asked) {
		t.Helper()
		resp, body := m.ask(t, "GET", client.AskedPath)
		if err := json.Unmarshal(body, &out); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s: %v", resp.Status, body, err)
		}
		return out
	}
	if got := asked(); len(got.Registries) > 0 || got.Since.IsZero() {
		t.Errorf("before: %+v", got)
	}
	m.ask(t, "HEAD", "/v2/library/alpine/manifests/none?ns=quay.io", "User-Agent", "containerd/v2.4.2")
	if got := asked(); len(got.Registries) != 1 || time.Since(got.Registries["quay.io"]) > time.Minute {
		t.Errorf("after: %+v", got)
	}
	var s client.Status
	resp, err := http.Get("http://" + m.OpenAddr + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || len(s.Asked) != 1 {
		t.Errorf("status: %v, %v", s.Asked, err)
	}
}

// The read side of the OCI distribution-spec 1.1 and what clients add to it.
func TestMirrorSpeaksTheDistributionSpec(t *testing.T) {
	registry := dockerRegistry(t)
	index, want := push(t, registry.Addr, "alpine:3.20", 5<<20)
	push(t, registry.Addr, "alpine:3.21", 1<<10)
	push(t, registry.Addr, "busybox:1", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	for _, image := range []string{"alpine:3.20", "alpine:3.21", "busybox:1"} {
		publisher.publish(t, image)
	}
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 3)
	layer := layersOf(t, index)[0]
	raw, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	blob := "/v2/library/alpine/blobs/" + layer.String()

	tests := map[string]struct {
		method, path string
		header       []string
		code         int
		want         map[string]string
		body         string // exact, when not empty
	}{
		"ping":     {"GET", "/v2/", nil, 200, map[string]string{"Docker-Distribution-Api-Version": "registry/2.0"}, ""},
		"head tag": {"HEAD", "/v2/library/alpine/manifests/3.20?ns=docker.io", nil, 200, map[string]string{"Docker-Content-Digest": want.String(), "Content-Length": fmt.Sprint(len(raw)), "Content-Type": "application/vnd.oci.image.index.v1+json"}, ""},
		"tag":      {"GET", "/v2/library/alpine/manifests/3.20", nil, 200, map[string]string{"Docker-Content-Digest": want.String()}, string(raw)},
		"digest":   {"GET", "/v2/library/alpine/manifests/" + want.String(), nil, 200, nil, string(raw)},
		"short":    {"GET", "/v2/alpine/manifests/3.20", nil, 200, nil, string(raw)},
		"unchanged": {"GET", "/v2/library/alpine/manifests/3.20", []string{"If-None-Match", `"` + want.String() + `"`},
			304, nil, ""},
		"compressed is never sent": {"GET", blob, []string{"Accept-Encoding", "zstd, gzip, deflate"}, 200, map[string]string{"Content-Encoding": ""}, ""},
		"head blob":                {"HEAD", blob, nil, 200, map[string]string{"Docker-Content-Digest": layer.String(), "Accept-Ranges": "bytes"}, ""},
		"range":                    {"GET", blob, []string{"Range", "bytes=0-9"}, 206, map[string]string{"Content-Length": "10"}, ""},
		"suffix range":             {"GET", blob, []string{"Range", "bytes=-5"}, 206, map[string]string{"Content-Length": "5"}, ""},
		"range past the end":       {"GET", blob, []string{"Range", "bytes=999999999-"}, 416, nil, ""},
		"tags":                     {"GET", "/v2/library/alpine/tags/list", nil, 200, nil, `{"name":"library/alpine","tags":["3.20","3.21"]}` + "\n"},
		"tags, first page":         {"GET", "/v2/library/alpine/tags/list?n=1", nil, 200, map[string]string{"Link": `</v2/library/alpine/tags/list?last=3.20&n=1>; rel="next"`}, `{"name":"library/alpine","tags":["3.20"]}` + "\n"},
		"tags, last page":          {"GET", "/v2/library/alpine/tags/list?n=1&last=3.20", nil, 200, map[string]string{"Link": ""}, `{"name":"library/alpine","tags":["3.21"]}` + "\n"},
		"catalog":                  {"GET", "/v2/_catalog", nil, 200, nil, `{"repositories":["library/alpine","library/busybox"]}` + "\n"},
		"referrers":                {"GET", "/v2/library/alpine/referrers/" + want.String(), nil, 200, map[string]string{"Content-Type": "application/vnd.oci.image.index.v1+json"}, ""},
		"referrers of what nobody knows": {"GET", "/v2/library/alpine/referrers/" + digest.FromString("?").String(), nil, 200, nil,
			`{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}` + "\n"},
		"referrers of no digest": {"GET", "/v2/library/alpine/referrers/3.20", nil, 400, nil, ""},
		"referrers of one type":  {"GET", "/v2/library/alpine/referrers/" + want.String() + "?artifactType=a/b", nil, 200, map[string]string{"OCI-Filters-Applied": "artifactType"}, ""},
		"if range":               {"GET", blob, []string{"Range", "bytes=0-9", "If-Range", `"other"`}, 200, nil, ""},
		"unchanged blob":         {"GET", blob, []string{"If-None-Match", `"` + layer.String() + `"`}, 304, nil, ""},
		"tags of nothing":        {"GET", "/v2/library/unknown/tags/list", nil, 404, nil, ""},
		"n that is no number":    {"GET", "/v2/_catalog?n=x", nil, 400, nil, ""},
		"no tags":                {"GET", "/v2/library/alpine/tags/list?n=0", nil, 200, map[string]string{"Link": ""}, `{"name":"library/alpine","tags":[]}` + "\n"},
		"unknown tag":            {"GET", "/v2/library/alpine/manifests/9", nil, 404, nil, ""},
		"unknown blob":           {"GET", "/v2/library/alpine/blobs/" + digest.FromString("?").String(), nil, 404, nil, ""},
		"another image's blob":   {"GET", "/v2/library/busybox/blobs/" + layer.String(), nil, 404, nil, ""},
		"a layer as a manifest":  {"GET", "/v2/library/alpine/manifests/" + layer.String(), nil, 404, nil, ""},
		"another registry":       {"GET", "/v2/library/alpine/manifests/3.20?ns=quay.io", nil, 403, nil, ""},
		"path traversal":         {"GET", "/v2/library/%2e%2e/manifests/3.20", nil, 400, nil, ""},
		"write":                  {"PUT", "/v2/library/alpine/manifests/3.20", nil, 405, nil, ""},
		"not the API":            {"GET", "/", nil, 404, nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resp, body := m.ask(t, test.method, test.path, test.header...)
			if resp.StatusCode != test.code {
				t.Fatalf("status %s, want %d: %.200s", resp.Status, test.code, body)
			}
			for k, v := range test.want {
				if got := resp.Header.Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			if test.body != "" {
				if diff := cmp.Diff(test.body, string(body)); diff != "" {
					t.Error(diff)
				}
			}
			if test.code >= 400 && test.code != 416 {
				var refused struct {
					Errors []struct{ Code, Message string }
				}
				if err := json.Unmarshal(body, &refused); err != nil || len(refused.Errors) != 1 || refused.Errors[0].Message == "" {
					t.Errorf("no OCI error body: %v: %.200s", err, body)
				}
			}
		})
	}
}

// waitFor waits until check returns nil, at most ten seconds.
func waitFor(t *testing.T, check func() error) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}
