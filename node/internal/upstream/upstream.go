// Package upstream copies images from the registries that they come from. It is
// the only code that talks to them, and only publishers run it. Nothing that a
// registry says is trusted: every answer is bounded, and content is checked by
// digest. It may import pieces, the store, turn and the ledger; publish and
// node/cli call it.
package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/turn"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// DefaultEndpoint is where Docker Hub's registry is.
const DefaultEndpoint = "https://registry-1.docker.io"

// maxSessions bounds the repositories whose tokens are kept.
const maxSessions = 4096

// Config says where an upstream is.
type Config struct {
	Name     string // the registry in image names: "docker.io"
	Endpoint string // URL
	// SecretDir may hold credentials (username and password, or
	// .dockerconfigjson) and roots of trust (ca.crt). Credentials may change
	// at any time.
	SecretDir string
	// Private are patterns (path.Match) of the repositories that are read although
	// only the credentials open them. The others must be readable without.
	Private []string
	// AttachedFor is how long is remembered what hangs on a digest, so that the
	// many tags of one image do not ask again for it; 0 is the constant AttachedFor.
	AttachedFor time.Duration
	// Limit bounds the bytes of all upstreams that share it; nil means
	// unlimited.
	Limit *Limit
	// Observe is called after each request.
	Observe func(method string, code int)
}

// Registry is the upstream of one registry name.
type Registry struct {
	host        string // of the endpoint
	options     []name.Option
	credentials credentials
	guard       *guard
	anonymous   *guard // of requests without the credentials, which have limits of their own
	official    bool   // it is Docker Hub: what is in library/ is public
	private     []string
	sessions    *lru.Cache[string, *session] // by repository
	attachments *expirable.LRU[string, *Attached]
	noReferrers *expirable.LRU[string, struct{}]           // repositories without a referrers API
	copying     turn.Turns                                 // of manifests and blobs, by digest
	described   *lru.Cache[digest.Digest, []digest.Digest] // pieces of blobs
}

// session is a repository with the token that opens it.
type session struct {
	repo name.Repository

	mu     sync.Mutex // held while a token is fetched; guards what follows
	client *http.Client
	public time.Time // when it could last be read without the credentials
}

// New makes a client of the registry at an http or https URL.
func New(c Config) (*Registry, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("upstream %q: want a URL such as %s", c.Endpoint, DefaultEndpoint)
	}
	r := &Registry{host: u.Host, credentials: credentials{dir: c.SecretDir, hosts: []string{u.Host, c.Name}}, official: c.Name == "docker.io", private: c.Private}
	if r.official {
		r.credentials.hosts = append(r.credentials.hosts, "index.docker.io")
	}
	if u.Scheme == "http" {
		r.options = append(r.options, name.Insecure)
	}
	ca := ""
	if c.SecretDir != "" {
		ca = filepath.Join(c.SecretDir, caFile)
	}
	next, err := newTransport(ca)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", c.Name, err)
	}
	r.guard = &guard{next: next, governor: &governor{now: time.Now}, host: u.Host, plain: u.Scheme == "http", limit: c.Limit, observe: c.Observe}
	if r.guard.observe == nil {
		r.guard.observe = func(string, int) {}
	}
	other := *r.guard
	other.governor = &governor{now: time.Now}
	r.anonymous = &other
	r.attachments = expirable.NewLRU[string, *Attached](maxSessions, nil, cmp.Or(c.AttachedFor, AttachedFor))
	r.noReferrers = expirable.NewLRU[string, struct{}](maxSessions, nil, noReferrersFor)
	if r.sessions, err = lru.New[string, *session](maxSessions); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", c.Name, err)
	}
	if r.described, err = lru.New[digest.Digest, []digest.Digest](maxDescribed); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", c.Name, err)
	}
	return r, nil
}

// Host names the upstream, as it is recorded on the ledger.
func (r *Registry) Host() string { return r.host }

// Limits are what the upstream said last about its rate limits.
func (r *Registry) Limits() Limits { return r.guard.governor.limits() }

// client gives the way to a repository, with its token, for a request.
func (r *Registry) client(ctx context.Context, repository, path string) (*http.Client, error) {
	s, ok := r.sessions.Get(repository)
	if !ok {
		var err error
		if s, err = r.begin(repository); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.readable(ctx, s, repository, path); err != nil {
		return nil, err
	}
	if s.client != nil {
		return s.client, nil
	}
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, r.credentials, transport.NewUserAgent(r.guard, "pyrsia"), []string{s.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	s.client = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return s.client, nil
}

// begin makes the session of a repository, or gives the one that is there.
func (r *Registry) begin(repository string) (*session, error) {
	// The library would take "a/../b" for a name.
	parsed, err := ledger.ParseImage("registry.example/" + repository + ":x")
	if err != nil || parsed.Repository != repository {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%q is not a repository name", repository)}
	}
	repo, err := name.NewRepository(r.host+"/"+repository, r.options...)
	if err != nil {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%q is not a repository name", repository)}
	}
	s := &session{repo: repo}
	if old, ok, _ := r.sessions.PeekOrAdd(repository, s); ok {
		s = old
	}
	return s, nil
}

// accept are the media types of manifests. All of them are always listed,
// because some registries convert a manifest to what they think is asked for.
var accept = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

func (r *Registry) url(repository, path string) string {
	scheme := "https"
	if r.guard.plain {
		scheme = "http"
	}
	return scheme + "://" + r.host + "/v2/" + repository + "/" + path
}

// do makes one request to a repository. The caller closes the body.
func (r *Registry) do(ctx context.Context, method, repository, path string, header http.Header, codes ...int) (*http.Response, error) {
	client, err := r.client(ctx, repository, path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url(repository, path), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, codes...); err != nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			wait := time.Until(r.Limits().Until)
			return nil, &Error{Kind: RateLimited, RetryAfter: max(wait, time.Second), Err: err}
		}
		return nil, err
	}
	return resp, nil
}

// Resolve asks to which digest a tag points now, by HEAD.
func (r *Registry) Resolve(ctx context.Context, image ledger.Image) (digest.Digest, error) {
	resp, err := r.do(ctx, http.MethodHead, image.Repository, "manifests/"+image.Tag, http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		return "", classify(fmt.Errorf("resolving %s: %w", image, err))
	}
	defer resp.Body.Close()
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if err := ledger.CheckDigest(d); err != nil {
		return "", invalid("resolving %s: header Docker-Content-Digest: %w", image, err)
	}
	return d, nil
}

// Has asks whether a repository has a manifest with a digest, by HEAD.
func (r *Registry) Has(ctx context.Context, image ledger.Image, d digest.Digest) (bool, error) {
	resp, err := r.do(ctx, http.MethodHead, image.Repository, "manifests/"+d.String(), http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		err = classify(fmt.Errorf("asking for %s of %s: %w", d, image, err))
		if IsNotFound(err) {
			return false, nil
		}
		return false, err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.String() {
		return false, invalid("asking for %s of %s: the registry has %.100q there", d, image, got)
	}
	return true, nil
}

// Manifest is a manifest or an index as the upstream has it, byte by byte.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Data      []byte
}

// Manifest fetches a manifest by digest.
func (r *Registry) Manifest(ctx context.Context, image ledger.Image, d digest.Digest) (*Manifest, error) {
	what := fmt.Sprintf("fetching manifest %s of %s", d, image)
	resp, err := r.do(ctx, http.MethodGet, image.Repository, "manifests/"+d.String(), http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		return nil, classify(fmt.Errorf("%s: %w", what, err))
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, classify(fmt.Errorf("%s: %w", what, err))
	}
	if got := digest.FromBytes(data); got != d {
		return nil, invalid("%s: the registry sent %s", what, got)
	}
	return parseManifest(d, data, resp.Header.Get("Content-Type"))
}

// Blob copies the bytes of a blob from an offset on to w. The caller checks
// what arrived.
func (r *Registry) Blob(ctx context.Context, image ledger.Image, d digest.Digest, offset, size int64, w io.Writer) error {
	what := fmt.Sprintf("fetching blob %s of %s", d, image)
	header, code := http.Header{"Accept-Encoding": {"identity"}}, http.StatusOK
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		code = http.StatusPartialContent
	}
	resp, err := r.do(ctx, http.MethodGet, image.Repository, "blobs/"+d.String(), header, code)
	if err != nil {
		return classify(fmt.Errorf("%s: %w", what, err))
	}
	defer resp.Body.Close()
	want := size - offset
	if resp.ContentLength >= 0 && resp.ContentLength != want {
		return invalid("%s: the registry announces %d bytes, the manifest says %d", what, resp.ContentLength, want)
	}
	// One byte more than announced is enough to know that it lies.
	n, err := collect(w, io.LimitReader(resp.Body, want+1))
	switch {
	case n > want:
		return invalid("%s: more than the %d bytes that the manifest says", what, size)
	case errors.Is(err, io.ErrUnexpectedEOF) || err == nil && n < want:
		return &Error{Kind: Unavailable, Err: fmt.Errorf("%s: the connection ended after %d of %d bytes", what, offset+n, size)}
	case err != nil:
		return classify(fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

// Platform names a platform as the ledger does: os/architecture[/variant].
func Platform(p *v1.Platform) string {
	if p == nil || p.OS == "" {
		return ledger.UnknownPlatform
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
