package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// publicFor is how long a repository that could be read without the login
// counts as public.
const publicFor = time.Hour

// readable refuses to ask a repository with the login if that alone can read it:
// what is published is public, and others than the login's owner ask for it.
// Allowed are the repositories that the settings name, and Docker Hub's official
// images; of all others the request that is to come is first made without the
// login. The caller holds the session's mu.
func (r *Registry) readable(ctx context.Context, s *session, repository, reference string) error {
	if r.allowed(repository) || time.Since(s.public) < publicFor || !r.credentials.given() {
		return nil
	}
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, authn.Anonymous, transport.NewUserAgent(r.anonymous, "pyrsia"), []string{s.repo.Scope(transport.PullScope)})
	if err != nil {
		return r.unreadable(repository, err)
	}
	method := http.MethodGet
	if strings.HasPrefix(reference, "manifests/") || strings.HasPrefix(reference, "blobs/") {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url(repository, reference), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", accept)
	client := &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.URL.Host != r.host {
			return http.ErrUseLastResponse // the registry has agreed; the login does not go there
		}
		return checkRedirect(req, via)
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusMultipleChoices || resp.Header.Get("Location") != "" {
		s.public = time.Now()
		return nil
	}
	return r.unreadable(repository, transport.CheckError(resp, http.StatusOK))
}

// unreadable says why a repository is not asked with the login.
func (r *Registry) unreadable(repository string, err error) error {
	if u, ok := errors.AsType[*Error](classify(err)); ok && u.Kind == Unauthorized {
		return &Error{Kind: Private, Err: fmt.Errorf("%s does not show %s without the login: %w", r.host, repository, err)}
	}
	return err
}

// allowed tells whether a repository may be read by the login alone.
func (r *Registry) allowed(repository string) bool {
	return r.official && strings.HasPrefix(repository, "library/") || slices.ContainsFunc(r.private, func(pattern string) bool {
		ok, _ := path.Match(pattern, repository)
		return ok
	})
}

// WithoutLogin tells whether what is not found in a repository may be there for
// the login that there is, by which the repository is not asked.
func (r *Registry) WithoutLogin(repository string) bool {
	if r.allowed(repository) || !r.credentials.given() {
		return false
	}
	s, ok := r.sessions.Peek(repository)
	if !ok {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.public) >= publicFor
}
