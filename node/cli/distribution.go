package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/distributions"
)

// preset sets the flags that a Kubernetes distribution stands for.
func preset(cmd *cobra.Command, distribution string) error {
	if distribution == "" {
		return nil
	}
	d, err := distributions.Find(distribution)
	if err != nil {
		return fmt.Errorf("--distribution: %w", err)
	}
	if cmd.Name() == "install" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", d.Name, d.Note)
	}
	for name, value := range map[string]string{"certs-d": d.CertsD, "config": d.Config} {
		if !cmd.Flags().Changed(name) {
			if err := cmd.Flags().Set(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}
