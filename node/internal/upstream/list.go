package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

const (
	// maxTags bounds the tags of a repository: official images have some
	// thousands.
	maxTags  = 100_000
	tagsPage = 1000
)

// Tags lists the tags of a repository (OCI distribution-spec, "Listing Tags").
func (r *Registry) Tags(ctx context.Context, repository string) ([]string, error) {
	var tags []string
	last := ""
	for {
		page, err := r.tagsPage(ctx, repository, last)
		if err != nil {
			return nil, classify(fmt.Errorf("listing the tags of %s: %w", repository, err))
		}
		// A registry that ignores last= sends the same page for ever.
		if len(page) == 0 || len(tags) > 0 && page[0] == tags[0] {
			return tags, nil
		}
		tags = append(tags, page...)
		if len(tags) > maxTags {
			return nil, invalid("%s has more than %d tags", repository, maxTags)
		}
		if len(page) < tagsPage {
			return tags, nil
		}
		last = page[len(page)-1]
	}
}

func (r *Registry) tagsPage(ctx context.Context, repository, last string) ([]string, error) {
	q := url.Values{"n": {strconv.Itoa(tagsPage)}}
	if last != "" {
		q.Set("last", last)
	}
	resp, err := r.do(ctx, http.MethodGet, repository, "tags/list?"+q.Encode(), nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return nil, invalid("the answer: %w", err)
	}
	return page.Tags, nil
}
