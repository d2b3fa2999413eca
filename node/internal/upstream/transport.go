package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	// maxManifest bounds a manifest in bytes: the limit that registries have
	// (OCI distribution-spec, "Pushing Manifests").
	maxManifest = 4 << 20
	// maxAnswer bounds every other body that is not a blob: a page of a list.
	maxAnswer = 8 << 20
	// A body must bring stallBytes in each stallTimeout.
	stallTimeout = time.Minute
	stallBytes   = 64 << 10

	attempts     = 3 // of one request, before it fails
	maxRedirects = 5
)

// newBackOff spaces the attempts of one request.
func newBackOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: 250 * time.Millisecond, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: 8 * time.Second}
}

// guard is the way of every request to an upstream: it keeps to the rate
// limits, tries again what may pass, and bounds every body.
type guard struct {
	next     http.RoundTripper
	governor *governor
	host     string // of the registry
	plain    bool   // the registry has no TLS
	limit    *Limit
	observe  func(method string, code int)
}

// newTransport makes the connections. caFile holds more roots, PEM; it need
// not exist.
func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
		MaxConnsPerHost:       64,
	}
	pem, err := durable.Read(caFile)
	if caFile == "" || errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an upstream's CA: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", filepath.Base(caFile))
	}
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	// The library tries both with some hosts; the endpoint says which it is.
	if g.plain != (req.URL.Scheme == "http") && req.URL.Host == g.host {
		return nil, fmt.Errorf("%s is not asked by %s", g.host, req.URL.Scheme)
	}
	manifest := strings.Contains(req.URL.Path, "/manifests/")
	pull := manifest && req.Method == http.MethodGet && req.URL.Host == g.host
	pause := newBackOff()
	for attempt := 1; ; attempt++ {
		wait := g.governor.take(pull)
		if wait > turnTimeout {
			return nil, limitedError(g.host, wait)
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		resp, err := g.once(req, manifest)
		if err == nil {
			g.observe(req.Method, resp.StatusCode)
			g.governor.note(resp)
		}
		if attempt == attempts || !transient(req, resp, err) {
			return resp, err
		}
		if resp != nil {
			_ = resp.Body.Close() // its status has said all
		}
		if err := sleep(req.Context(), pause.NextBackOff()); err != nil {
			return nil, err
		}
	}
}

// transient tells whether the same request may succeed soon.
func transient(req *http.Request, resp *http.Response, err error) bool {
	if req.Context().Err() != nil || req.Body != nil {
		return false
	}
	if err != nil {
		_, wrongCertificate := errors.AsType[*tls.CertificateVerificationError](err)
		return !wrongCertificate
	}
	return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *guard) once(req *http.Request, manifest bool) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	timer := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("%s sent less than %d bytes in %s", req.URL.Host, stallBytes, stallTimeout))
	})
	resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: ctx, timer: timer, limit: g.limit, cancel: cancel}
	switch {
	case manifest:
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxManifest)
	case !strings.Contains(req.URL.Path, "/blobs/") && req.URL.Host == g.host:
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, nil
}

// watchedBody is a body whose reads restart the timer, if they bring enough.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context // of the one request: Read has no parameter for it
	timer  *time.Timer
	limit  *Limit
	since  int // bytes since the timer was started; owned by the reader
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(b.limit.chunk(p))
	waited, limitErr := b.limit.wait(b.ctx, n)
	if err == nil {
		err = limitErr
	}
	if b.since += n; waited || b.since >= stallBytes { // waiting is not a stall of the sender
		b.since = 0
		b.timer.Reset(stallTimeout)
	}
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// checkRedirect follows a registry to where it keeps its blobs, but not out of
// TLS, and not from a public host into a private network. Credentials never
// go along: the transport adds them for the registry's own host alone.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return invalid("%s redirects more than %d times", from.Host, maxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != from.Scheme:
		return invalid("%s redirects out of TLS, to %s://%s", from.Host, req.URL.Scheme, req.URL.Host)
	case private(req.URL.Hostname()) && !private(from.Hostname()):
		return invalid("%s redirects into a private network, to %s", from.Host, req.URL.Host)
	}
	return nil
}

// private tells whether a host is an address that is not on the internet.
func private(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil &&
		(a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast())
}
