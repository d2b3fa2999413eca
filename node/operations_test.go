package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

func TestPullsLeaveReceipts(t *testing.T) {
	registry := dockerRegistry(t)
	index, d := push(t, registry.Addr, "alpine:3.20", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "alpine:3.20")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	m.ask(t, "HEAD", "/v2/library/alpine/manifests/3.20?ns=docker.io")
	m.ask(t, "GET", "/v2/library/alpine/manifests/"+d.String()+"?ns=docker.io", "User-Agent", "containerd/2.4")
	m.ask(t, "GET", "/v2/library/alpine/manifests/"+manifestsOf(t, index)[0].String())
	m.ask(t, "GET", "/v2/library/alpine/manifests/3.21")
	got, err := m.control.Receipts(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Receipts) != 1 {
		t.Fatalf("%d receipts, want 1: %+v", len(got.Receipts), got)
	}
	r := got.Receipts[0]
	if r.Image != "docker.io/library/alpine:3.20" || r.Digest != d.String() || r.Block != 0 || r.Pulls != 2 || r.Client != "127.0.0.1" {
		t.Errorf("receipt: %+v", r)
	}
	if got, err := m.control.Receipts(t.Context(), r.Sequence); err != nil || len(got.Receipts) != 0 {
		t.Errorf("receipts since then: %+v, %v", got, err)
	}
	if got, err := publisher.control.Receipts(t.Context(), 0); err != nil || len(got.Receipts) != 0 {
		t.Errorf("receipts of a publisher: %+v, %v", got, err)
	}
	if _, err := m.control.Receipts(t.Context(), -1); err == nil {
		t.Error("a sequence below 0 was accepted")
	}
}

// Corrupt blobs on disk are fetched again from peers even if no client asks for
// them, on the publisher too, which has the first copy.
func TestCorruptBlobsAreHealedFromPeers(t *testing.T) {
	registry := dockerRegistry(t)
	index, _ := push(t, registry.Addr, "alpine:3.20", 5<<20)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "alpine:3.20")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	if _, err := m.pull(t.Context(), "alpine:3.20"); err != nil {
		t.Fatal(err)
	}
	layer := layersOf(t, index)[0]
	for _, n := range []*started{publisher, m} {
		file := filepath.Join(n.DataDir, "store", "blobs", "sha256", layer.Encoded())
		flip(t, file)
		if _, err := n.store.Open(t.Context(), layer); err == nil {
			t.Fatal("a corrupt blob was opened")
		}
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		for !n.store.Has(layer) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		f, err := n.store.Open(t.Context(), layer)
		if err != nil {
			t.Fatalf("%s: not healed: %v", n.Role, err)
		}
		f.Close()
	}
}

func TestReadyMeansUsable(t *testing.T) {
	registry := dockerRegistry(t)
	push(t, registry.Addr, "alpine:3.20", 1<<10)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "alpine:3.20")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	ready := func() (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + m.OpenAddr + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		code, body := ready()
		if code == http.StatusOK {
			break
		}
		if time.Since(start) > testTimeout {
			t.Fatalf("not ready: %s", body)
		}
	}
	if err := os.RemoveAll(filepath.Join(m.DataDir, "store", "ingest")); err != nil {
		t.Fatal(err)
	}
	if code, body := ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "the store is not usable") {
		t.Errorf("without a place to write to: %d %s", code, body)
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	m := newMirror(t, publisher)
	m.ask(t, "GET", "/v2/library/alpine/manifests/3.21")
	resp, err := http.Get("http://" + m.OpenAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	problems, err := promlint.New(resp.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "pyrsia_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// A pull under way may end when the node goes down.
func TestShutdownLetsPullsEnd(t *testing.T) {
	registry := dockerRegistry(t)
	index, _ := push(t, registry.Addr, "big:1", 32<<20)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "big:1")
	m := newMirror(t, publisher)
	m.awaitBlocks(t, 1)
	layer := layersOf(t, index)[0]
	m.ask(t, "GET", "/v2/library/big/blobs/"+layer.String())
	resp, err := http.Get("http://" + m.MirrorAddr + "/v2/library/big/blobs/" + layer.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- m.Close() }()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", m.MirrorAddr)
		if err != nil {
			break // no new clients
		}
		conn.Close()
		if time.Since(start) > testTimeout {
			t.Fatal("the node still takes new clients")
		}
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n+1<<20 != resp.ContentLength {
		t.Errorf("the pull ended after %d of %d bytes: %v", n+1<<20, resp.ContentLength, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMirrorSpeaksTLS(t *testing.T) {
	registry := dockerRegistry(t)
	publisher := newPublisher(t, registry.Addr)
	dir := t.TempDir()
	c := Config{Role: control.Mirror, LedgerKey: publisher.ledger.Key(), Bootstrap: []string{publisher.address()},
		MirrorCertFile: filepath.Join(dir, "tls.crt"), MirrorKeyFile: filepath.Join(dir, "tls.key")}
	first := writeCertificate(t, c, 1)
	m := start(t, c)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: first}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + m.MirrorAddr + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %s", resp.Status)
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	c := Config{MirrorCertFile: filepath.Join(dir, "tls.crt"), MirrorKeyFile: filepath.Join(dir, "tls.key")}
	writeCertificate(t, c, 1)
	cert := &certificate{cert: c.MirrorCertFile, key: c.MirrorKeyFile, log: testLogger(t)}
	if err := cert.load(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	serial := func() string {
		now = now.Add(certificateInterval)
		return cert.get(now).Leaf.SerialNumber.String()
	}
	if got := serial(); got != "1" {
		t.Errorf("certificate %s, want 1", got)
	}
	writeCertificate(t, c, 2)
	if got := serial(); got != "2" {
		t.Errorf("after it was replaced: certificate %s, want 2", got)
	}
	if err := os.WriteFile(c.MirrorCertFile, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != "2" {
		t.Errorf("while it cannot be read: certificate %s, want 2", got)
	}
}

func writeCertificate(t *testing.T, c Config, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err1 := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	der, err2 := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err1, err2,
		os.WriteFile(c.MirrorCertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(c.MirrorKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
		os.Chtimes(c.MirrorCertFile, time.Time{}, time.Unix(1e9+serial, 0)),
	); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) {
		t.Fatal(fmt.Errorf("certificate %d", serial))
	}
	return pool
}

// A blob that does not fit into the store is verified and passed on from peers
// without being stored.
func TestBlobsThatDoNotFitArePassedOn(t *testing.T) {
	registry := dockerRegistry(t)
	index, want := push(t, registry.Addr, "big:1", 9<<20)
	publisher := newPublisher(t, registry.Addr)
	publisher.publish(t, "big:1")
	m := start(t, Config{Role: control.Mirror, LedgerKey: publisher.ledger.Key(), Bootstrap: []string{publisher.address()}, CacheSize: 6 << 20})
	m.awaitBlocks(t, 1)
	if got, err := m.pull(t.Context(), "big:1"); err != nil || got != want {
		t.Errorf("pull: %s, %v, want %s", got, err, want)
	}
	layer := layersOf(t, index)[0]
	if _, size := m.store.Usage(); m.store.Has(layer) || size > 6<<20 {
		t.Errorf("the store has the blob: %t, and %d bytes", m.store.Has(layer), size)
	}
	resp, body := m.ask(t, "GET", "/v2/library/big/blobs/"+layer.String(), "Range", "bytes=5000000-")
	if resp.StatusCode != http.StatusPartialContent || int64(len(body)) != resp.ContentLength {
		t.Errorf("range: %s, %d bytes", resp.Status, len(body))
	}
}
