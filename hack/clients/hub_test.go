package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// hub stands where clients look for Docker Hub, and for quay.io: real content behind its names
// and a certificate that the clients trust. It counts connections.
type hub struct {
	hosts    string // file for /etc/hosts
	roots    string // file with the certificates that the clients trust
	requests atomic.Int64
}

// hubAddr is an otherwise unused loopback address.
const hubAddr = "127.83.72.61"

var hubNames = []string{"registry-1.docker.io", "docker.io", "index.docker.io", "auth.docker.io", "quay.io"}

func startHub(t *testing.T, upstream string) *hub {
	t.Helper()
	dir := t.TempDir()
	h := &hub{hosts: filepath.Join(dir, "hosts"), roots: filepath.Join(dir, "roots.pem")}
	hosts := "127.0.0.1 localhost\n"
	for _, n := range hubNames {
		hosts += hubAddr + " " + n + "\n"
	}
	cert, roots := hubCertificate(t)
	if err := errors.Join(os.WriteFile(h.hosts, []byte(hosts), 0o644), os.WriteFile(h.roots, roots, 0o644)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", hubAddr+":443")
	if err != nil {
		t.Fatalf("Docker Hub's stand-in: %v", err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: upstream})
	}, ErrorLog: log.New(t.Output(), "", 0)}
	server := &http.Server{ErrorLog: log.New(t.Output(), "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})) }()
	t.Cleanup(func() { server.Close() })
	return h
}

func hubCertificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, DNSNames: hubNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
