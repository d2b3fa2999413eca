// Package upstreamtest is an upstream registry for tests and benchmarks: it
// has Docker Hub's token authentication and rate limits, generated images, and
// whatever faults a test gives it. A real registry is in hack/demo/upstream.
package upstreamtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Content is a manifest or a blob.
type Content struct {
	MediaType string
	Data      []byte
}

// Counts are the requests that were answered, those for tokens and pings not
// among them.
type Counts struct {
	Head                             int // of an image's tag
	Attached                         int // of a tag that holds what is attached to a digest
	Referrers                        int
	Manifests                        int // each once, and again if it was asked for again
	Blobs                            int
	Lists, Tokens, Throttled, Failed int
}

// Registry is an upstream registry. Its fields are set before it serves.
type Registry struct {
	// Username and Password are asked for by the token endpoint; anonymous
	// tokens are given if they are empty.
	Username, Password string
	// Public tells which repositories can be read without the login; nil: none.
	Public func(repository string) bool
	// NoAuth serves without tokens.
	NoAuth bool
	// Fault may answer a request in the registry's place.
	Fault func(w http.ResponseWriter, r *http.Request) (done bool)
	// Limit and Window are sent in each manifest's headers, if Limit is set.
	Limit  int
	Window time.Duration
	// ReferrersAPI serves /v2/NAME/referrers/.
	ReferrersAPI bool

	mu        sync.Mutex // guards what follows
	content   map[digest.Digest]Content
	tags      map[string]map[string]digest.Digest // by repository and tag
	referrers map[digest.Digest][]digest.Digest
	tokens    map[string]bool // whether they are of the login; the others open what is Public
	counts    Counts
}

// New makes an empty registry.
func New() *Registry {
	return &Registry{
		content: map[digest.Digest]Content{}, tags: map[string]map[string]digest.Digest{},
		referrers: map[digest.Digest][]digest.Digest{}, tokens: map[string]bool{},
	}
}

// Add keeps content, and returns its digest.
func (r *Registry) Add(mediaType string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[d] = Content{mediaType, data}
	return d
}

// AddAs keeps content under a digest that it may not have.
func (r *Registry) AddAs(d digest.Digest, mediaType string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[d] = Content{mediaType, data}
}

// Tag makes a tag point to a digest.
func (r *Registry) Tag(repository, tag string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tags[repository] == nil {
		r.tags[repository] = map[string]digest.Digest{}
	}
	r.tags[repository][tag] = d
}

// Refer makes a manifest refer to another.
func (r *Registry) Refer(to, from digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.referrers[to] = append(r.referrers[to], from)
}

// RevokeTokens ends all tokens, as a registry does after a while.
func (r *Registry) RevokeTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

// Counts gives the requests so far.
func (r *Registry) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

func (r *Registry) count(f func(c *Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.counts)
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		r.token(w, req)
		return
	}
	if !r.NoAuth && !r.authorized(req) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="upstream",scope="repository:all:pull"`, base(req)))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "a token is needed")
		return
	}
	if req.URL.Path == "/v2/" {
		_, _ = w.Write([]byte("{}"))
		return
	}
	if r.Fault != nil && r.Fault(w, req) {
		return
	}
	r.serve(w, req)
}

func base(req *http.Request) string {
	if req.TLS != nil {
		return "https://" + req.Host
	}
	return "http://" + req.Host
}

func (r *Registry) token(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	r.mu.Lock()
	defer r.mu.Unlock()
	login := user == r.Username && password == r.Password
	if !login && (r.Public == nil || user != "") {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	token := rand.Text()
	r.tokens[token] = login
	r.counts.Tokens++
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

func (r *Registry) authorized(req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	login, ok := r.tokens[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
	repository, _, _ := parts(req)
	return login || ok && r.Public(repository)
}

// parts takes the path of a request apart.
func parts(req *http.Request) (repository, kind, reference string) {
	path := strings.Split(strings.TrimPrefix(req.URL.Path, "/v2/"), "/")
	if len(path) < 3 {
		return "", "", ""
	}
	return strings.Join(path[:len(path)-2], "/"), path[len(path)-2], path[len(path)-1]
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	repository, kind, reference := parts(req)
	switch kind {
	case "":
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such path")
	case "manifests":
		r.manifest(w, req, repository, reference)
	case "blobs":
		r.count(func(c *Counts) { c.Blobs++ })
		r.send(w, req, digest.Digest(reference), "BLOB_UNKNOWN")
	case "tags":
		r.list(w, req, repository)
	case "referrers":
		r.count(func(c *Counts) { c.Referrers++ })
		r.sendReferrers(w, digest.Digest(reference))
	}
}

func (r *Registry) manifest(w http.ResponseWriter, req *http.Request, repository, reference string) {
	r.mu.Lock()
	d, ok := r.tags[repository][reference]
	switch {
	case req.Method != http.MethodHead:
		r.counts.Manifests++
	case strings.HasPrefix(reference, "sha256-"):
		r.counts.Attached++
	default:
		r.counts.Head++
	}
	if r.Limit > 0 {
		w.Header().Set("ratelimit-limit", fmt.Sprintf("%d;w=%d", r.Limit, int(r.Window.Seconds())))
		w.Header().Set("ratelimit-remaining", fmt.Sprintf("%d;w=%d", max(0, r.Limit-r.counts.Manifests), int(r.Window.Seconds())))
	}
	r.mu.Unlock()
	if !ok {
		d = digest.Digest(reference)
	}
	r.send(w, req, d, "MANIFEST_UNKNOWN")
}

func (r *Registry) send(w http.ResponseWriter, req *http.Request, d digest.Digest, code string) {
	r.mu.Lock()
	c, ok := r.content[d]
	r.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, code, "unknown to this registry")
		return
	}
	w.Header().Set("Content-Type", c.MediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	data := c.Data
	if from, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes="); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(from, "-"))
		if err == nil && n < len(data) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-n))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[n:])
			return
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
}

func (r *Registry) list(w http.ResponseWriter, req *http.Request, repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Lists++
	tags, ok := r.tags[repository]
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "unknown to this registry")
		return
	}
	n, _ := strconv.Atoi(req.URL.Query().Get("n"))
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repository, "tags": page(tags, req.URL.Query().Get("last"), n)})
}

func (r *Registry) sendReferrers(w http.ResponseWriter, d digest.Digest) {
	if !r.ReferrersAPI {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no referrers API")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	index := Index{SchemaVersion: 2, MediaType: OCIIndex, Manifests: []Descriptor{}}
	for _, from := range r.referrers[d] {
		c := r.content[from]
		index.Manifests = append(index.Manifests, Descriptor{MediaType: c.MediaType, Digest: from, Size: int64(len(c.Data))})
	}
	w.Header().Set("Content-Type", OCIIndex)
	_ = json.NewEncoder(w).Encode(index)
}

// Throttle answers 429 with Retry-After.
func (r *Registry) Throttle(w http.ResponseWriter, seconds int) {
	r.count(func(c *Counts) { c.Throttled++ })
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "you have reached your pull rate limit")
}

// Fail answers 503.
func (r *Registry) Fail(w http.ResponseWriter) {
	r.count(func(c *Counts) { c.Failed++ })
	refuse(w, http.StatusServiceUnavailable, "UNKNOWN", "a passing error")
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}
