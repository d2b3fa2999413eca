// Package plan lists the images that an OfficialImageSet selects, without publishing
// any. pyrsia and the plugin of kubectl call it; it imports the catalogs that a
// publisher reads, and nothing that publishes.
package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/catalog"
)

// List lists the images of a set, which is an OfficialImageSet as YAML or JSON, or
// its spec alone. tags lists the tags of a repository, "docker.io/library/alpine".
func List(ctx context.Context, set []byte, tags func(ctx context.Context, repository string) ([]string, error)) (*control.ListResponse, error) {
	selection, err := read(set)
	if err != nil {
		return nil, err
	}
	return catalog.NewLister(tags).List(ctx, *selection)
}

// read reads a set's selection; what else is in it does not matter.
func read(set []byte) (*control.Selection, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(set, &doc); err != nil {
		return nil, fmt.Errorf("reading the set: %w", err)
	}
	if kind, ok := doc["kind"].(string); ok && kind != "OfficialImageSet" {
		return nil, fmt.Errorf("reading the set: it is a %s, want an OfficialImageSet", kind)
	}
	var spec any = doc
	if inner, ok := doc["spec"]; ok {
		spec = inner
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("reading the set: %w", err)
	}
	s := new(control.Selection)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("reading the set: %w", err)
	}
	if len(s.Images) == 0 && s.Catalog == nil {
		return nil, errors.New("the set selects nothing: give it images or a catalog")
	}
	return s, nil
}
