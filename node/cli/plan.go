package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/catalog"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// maxSet bounds the file of a set.
const maxSet = 4 << 20

func planCommand() *cobra.Command {
	var file, output string
	var upstreams map[string]string
	cmd := &cobra.Command{
		Use:   "plan -f SET.yaml",
		Short: "List the images that an OfficialImageSet selects, without publishing any",
		Long: `Reads an OfficialImageSet (or its spec alone), and lists the images that a
publisher would publish for it now. It asks what the publisher would ask: the
catalog's archive, Docker Hub's listing, and the upstream registries for their
tags where the set has rules. No image is fetched.`,
		Example: `  pyrsia plan -f set.yaml
  pyrsia plan -f set.yaml --upstream docker.io=http://127.0.0.1:5000 -o json`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			selection, err := readSelection(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			tags, err := tagsOf(upstreams)
			if err != nil {
				return err
			}
			list, err := catalog.NewLister(tags).List(cmd.Context(), *selection)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
			}
			return printPlan(cmd.OutOrStdout(), cmd.ErrOrStderr(), list)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "filename", "f", "", "file with the OfficialImageSet; - is standard input")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringToStringVar(&upstreams, "upstream", map[string]string{"docker.io": upstream.DefaultEndpoint}, "REGISTRY=URL to list tags at, as for 'pyrsia node'")
	return cmd
}

// readSelection reads a set's selection; what else is in the file does not matter.
func readSelection(file string, stdin io.Reader) (*control.Selection, error) {
	if file == "" {
		return nil, fmt.Errorf("%w: give the set's file by -f", errUsage)
	}
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading the set: %w", err)
		}
		defer f.Close()
		in = f
	}
	var doc map[string]any
	if err := yaml.NewDecoder(io.LimitReader(in, maxSet)).Decode(&doc); err != nil {
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

// tagsOf lists tags at the upstreams.
func tagsOf(endpoints map[string]string) (catalog.Tags, error) {
	registries := map[string]*upstream.Registry{}
	for name, endpoint := range endpoints {
		r, err := upstream.New(upstream.Config{Name: name, Endpoint: endpoint})
		if err != nil {
			return nil, err
		}
		registries[name] = r
	}
	return func(ctx context.Context, repository string) ([]string, error) {
		image, err := ledger.ParseImage(repository)
		if err != nil {
			return nil, err
		}
		r, ok := registries[image.Registry]
		if !ok {
			return nil, fmt.Errorf("no upstream for registry %s: give it by --upstream", image.Registry)
		}
		return r.Tags(ctx, image.Repository)
	}, nil
}

func printPlan(out, problems io.Writer, list *control.ListResponse) error {
	repositories := map[string]bool{}
	for _, image := range list.Images {
		fmt.Fprintln(out, image)
		repositories[image[:strings.LastIndex(image, ":")]] = true
	}
	tw := tabwriter.NewWriter(problems, 0, 0, 3, ' ', 0)
	for _, p := range list.Problems {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", p.What, p.Reason, p.Message)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(problems, "%d images of %d repositories, %d problems\n", len(list.Images), len(repositories), len(list.Problems))
	return err
}
