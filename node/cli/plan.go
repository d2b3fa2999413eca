package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/plan"
	"github.com/pyrsia/pyrsia-operator/node/report"
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
			set, err := readSet(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			tags, err := tagsOf(upstreams)
			if err != nil {
				return err
			}
			list, err := plan.List(cmd.Context(), set, tags)
			if err != nil {
				return err
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
			}
			return report.Plan(cmd.OutOrStdout(), cmd.ErrOrStderr(), list)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "filename", "f", "", "file with the OfficialImageSet; - is standard input")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringToStringVar(&upstreams, "upstream", map[string]string{"docker.io": upstream.DefaultEndpoint}, "REGISTRY=URL to list tags at, as for 'pyrsia node'")
	return cmd
}

// readSet reads the file of a set.
func readSet(file string, stdin io.Reader) ([]byte, error) {
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
	set, err := io.ReadAll(io.LimitReader(in, maxSet))
	if err != nil {
		return nil, fmt.Errorf("reading the set: %w", err)
	}
	return set, nil
}

// tagsOf lists tags at the upstreams.
func tagsOf(endpoints map[string]string) (func(ctx context.Context, repository string) ([]string, error), error) {
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
