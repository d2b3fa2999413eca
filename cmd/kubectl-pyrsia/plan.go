package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/plan"
	"github.com/pyrsia/pyrsia-operator/node/report"
)

func (c *cluster) planCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "plan SET", Short: "List the images that an OfficialImageSet of the cluster selects now", Args: cobra.ExactArgs(1)}
	o := newOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set := new(v1alpha1.OfficialImageSet)
		if err := c.client.Get(cmd.Context(), kube.ObjectKey{Namespace: c.namespace, Name: args[0]}, set); err != nil {
			return fmt.Errorf("reading the OfficialImageSet: %w", err)
		}
		data, err := json.Marshal(map[string]any{"spec": set.Spec}) // which is YAML too
		if err != nil {
			return err
		}
		list, err := plan.List(cmd.Context(), data, tags)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), list, func(bool) error { return report.Plan(cmd.OutOrStdout(), cmd.ErrOrStderr(), list) })
	}
	return cmd
}

// tags lists the tags of a repository at its registry, as anyone can.
func tags(ctx context.Context, repository string) ([]string, error) {
	repo, err := name.NewRepository(repository)
	if err != nil {
		return nil, err
	}
	return remote.List(repo, remote.WithContext(ctx))
}
