// Package upstream copies images from the registries that they come from. It
// is the only code that talks to them, and only publishers run it.
package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Kind is why an upstream did not deliver.
type Kind int

// The kinds of failure.
const (
	Unavailable  Kind = iota // cannot be reached, or answers 5xx
	NotFound                 // has no such image
	Unauthorized             // needs a login
	RateLimited              // asks to wait
	Invalid                  // sent something that is not what it says
)

// Error is a failure of an upstream registry.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the error that was met.
func (e *Error) Unwrap() error { return e.Err }

// Cause says in few words what went wrong, without the request that met it.
func (e *Error) Cause() string {
	if t, ok := errors.AsType[*transport.Error](e.Err); ok {
		if len(t.Errors) > 0 && t.Errors[0].Message != "" {
			return fmt.Sprintf("%d: %.200s", t.StatusCode, t.Errors[0].Message)
		}
		return fmt.Sprintf("%d %s", t.StatusCode, http.StatusText(t.StatusCode))
	}
	if u, ok := errors.AsType[*url.Error](e.Err); ok {
		return u.Err.Error()
	}
	return e.Err.Error()
}

// maxManifest bounds a manifest in bytes: the limit that registries have
// (OCI distribution-spec, "Pushing Manifests").
const maxManifest = 4 << 20

// stallTimeout bounds the wait for the next bytes of a body.
const stallTimeout = time.Minute

// DefaultEndpoint is where Docker Hub's registry is.
const DefaultEndpoint = "https://registry-1.docker.io"

// Registry is the upstream of one registry name.
type Registry struct {
	host    string // of the endpoint
	options []name.Option
	puller  *remote.Puller // keeps the tokens of each repository
}

// New makes a client of the registry at an http or https URL.
func New(endpoint string) (*Registry, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("upstream %q: want a URL such as %s", endpoint, DefaultEndpoint)
	}
	r := &Registry{host: u.Host}
	if u.Scheme == "http" {
		r.options = append(r.options, name.Insecure)
	}
	transport := &bounded{&http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
	}}
	r.puller, err = remote.NewPuller(
		remote.WithTransport(transport),
		remote.WithUserAgent("pyrsia"),
		// The callers retry, with what they know about the whole work.
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", endpoint, err)
	}
	return r, nil
}

// Host names the upstream, as it is recorded on the ledger.
func (r *Registry) Host() string { return r.host }

// bounded ends a manifest's body at maxManifest, and any body that stalls.
type bounded struct{ next http.RoundTripper }

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	timer := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("%s sent nothing for %s", req.URL.Host, stallTimeout))
	})
	resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: ctx, timer: timer, cancel: cancel}
	if strings.Contains(req.URL.Path, "/manifests/") {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxManifest)
	}
	return resp, nil
}

// watchedBody is a body whose reads restart the timer.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(stallTimeout)
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

func (r *Registry) repository(image ledger.Image) (name.Repository, error) {
	repo, err := name.NewRepository(r.host+"/"+image.Repository, r.options...)
	if err != nil {
		return name.Repository{}, &Error{Kind: NotFound, Err: fmt.Errorf("repository %s: %w", image.Repository, err)}
	}
	return repo, nil
}

// Resolve asks to which digest a tag points now, by HEAD.
func (r *Registry) Resolve(ctx context.Context, image ledger.Image) (digest.Digest, error) {
	repo, err := r.repository(image)
	if err != nil {
		return "", err
	}
	desc, err := r.puller.Head(ctx, repo.Tag(image.Tag))
	if err != nil {
		return "", r.classify(fmt.Errorf("resolving %s: %w", image, err))
	}
	d := digest.Digest(desc.Digest.String())
	if err := ledger.CheckDigest(d); err != nil {
		return "", &Error{Kind: Invalid, Err: fmt.Errorf("resolving %s: %w", image, err)}
	}
	return d, nil
}

// Manifest is a manifest or an index as the upstream has it, byte by byte.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Data      []byte
}

// Manifest fetches a manifest by digest.
func (r *Registry) Manifest(ctx context.Context, image ledger.Image, d digest.Digest) (*Manifest, error) {
	repo, err := r.repository(image)
	if err != nil {
		return nil, err
	}
	desc, err := r.puller.Get(ctx, repo.Digest(d.String()))
	if err != nil {
		return nil, r.classify(fmt.Errorf("fetching manifest %s of %s: %w", d, image, err))
	}
	if got := digest.FromBytes(desc.Manifest); got != d {
		return nil, &Error{Kind: Invalid, Err: fmt.Errorf("fetching manifest %s of %s: the registry sent %s", d, image, got)}
	}
	var own struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(desc.Manifest, &own); err != nil {
		return nil, &Error{Kind: Invalid, Err: fmt.Errorf("manifest %s of %s: %w", d, image, err)}
	}
	mediaType := string(desc.MediaType)
	if own.MediaType != "" {
		mediaType = own.MediaType // vouched for by the digest, unlike the header
	}
	return &Manifest{Digest: d, MediaType: mediaType, Data: desc.Manifest}, nil
}

// Blob copies a blob to w. The caller checks what arrived.
func (r *Registry) Blob(ctx context.Context, image ledger.Image, d digest.Digest, size int64, w io.Writer) error {
	repo, err := r.repository(image)
	if err != nil {
		return err
	}
	layer, err := r.puller.Layer(ctx, repo.Digest(d.String()))
	if err != nil {
		return r.classify(fmt.Errorf("fetching blob %s of %s: %w", d, image, err))
	}
	body, err := layer.Compressed()
	if err != nil {
		return r.classify(fmt.Errorf("fetching blob %s of %s: %w", d, image, err))
	}
	defer body.Close()
	// One byte more than announced is enough to know that it lies.
	n, err := io.Copy(w, io.LimitReader(body, size+1))
	if err != nil {
		return r.classify(fmt.Errorf("fetching blob %s of %s: %w", d, image, err))
	}
	if n != size {
		return &Error{Kind: Invalid, Err: fmt.Errorf("blob %s of %s: %d bytes or more, want %d", d, image, n, size)}
	}
	return nil
}

// classify says why the upstream did not deliver.
func (r *Registry) classify(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := &Error{Kind: Unavailable, Err: err}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		e.Kind = Invalid
		return e
	}
	terr, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return e
	}
	switch terr.StatusCode {
	case http.StatusNotFound:
		e.Kind = NotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = Unauthorized
	case http.StatusTooManyRequests:
		e.Kind = RateLimited
	}
	return e
}

// Platform names a platform as the ledger does: os/architecture[/variant].
func Platform(p *v1.Platform) string {
	if p == nil || p.OS == "" {
		return "unknown/unknown"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
