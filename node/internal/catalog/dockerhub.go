package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	hubEndpoint = "https://hub.docker.com"
	hubPageSize = 100
	maxHubPage  = 1 << 20 // bytes
	maxName     = 255     // bytes of a repository
)

// dockerHub adds the repositories that Docker Hub lists, each with the tags
// that the rules find (docs.docker.com/reference/api/hub).
func (l *Lister) dockerHub(ctx context.Context, b *builder, hub control.DockerHub) error {
	if !hub.Any() {
		return invalidRequest(fmt.Errorf("catalog.dockerHub: give semver, regexp, exclude or newest: Docker Hub never removes old tags"))
	}
	f, err := newFilter(hub.TagRules)
	if err != nil {
		return invalidRequest(err)
	}
	namespace := cmp.Or(hub.Namespace, "library")
	names, err := l.hubRepositories(ctx, cmp.Or(hub.Endpoint, hubEndpoint), namespace)
	if err != nil {
		return &control.Error{Reason: control.ReasonUpstreamUnavailable, Message: fmt.Sprintf("listing the repositories of %s: %v", namespace, err)}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listAtOnce)
	for _, name := range names {
		all := ledger.Image{Registry: "docker.io", Repository: namespace + "/" + name, Tag: "*"}
		if all.Matches(b.exclude) {
			continue // there is no need to ask
		}
		group.Go(func() error { l.repository(ctx, b, all.Name(), f); return nil })
	}
	return group.Wait()
}

// hubRepositories lists a namespace page by page. It counts the pages itself:
// where an answer says to go next is not followed.
func (l *Lister) hubRepositories(ctx context.Context, endpoint, namespace string) (names []string, err error) {
	for page := 1; len(names) <= maxRepositories; page++ {
		q := url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(hubPageSize)}}
		data, err := get(ctx, l.client, strings.TrimSuffix(endpoint, "/")+"/v2/namespaces/"+url.PathEscape(namespace)+"/repositories?"+q.Encode(), maxHubPage)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Next    string `json:"next"`
			Results []struct {
				Name string `json:"name"`
			} `json:"results"`
		}
		if err := json.Unmarshal(data, &answer); err != nil {
			return nil, fmt.Errorf("page %d: %w", page, err)
		}
		for _, r := range answer.Results {
			if len(r.Name) > maxName {
				return nil, fmt.Errorf("page %d: a repository's name of %d bytes", page, len(r.Name))
			}
			names = append(names, r.Name)
		}
		if answer.Next == "" || len(answer.Results) == 0 {
			return names, nil
		}
	}
	return nil, fmt.Errorf("more than %d repositories", maxRepositories)
}
