package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/docker"
)

func dockerCommand() *cobra.Command {
	var s docker.Setup
	var mirror string
	cmd := &cobra.Command{
		Use:   "docker",
		Short: "Make a node the registry mirror of this machine's Docker, or take that back",
		Long: `Adds the node to registry-mirrors in Docker's daemon.json. All other settings
stay, and uninstall restores the file exactly. Docker has no strict mode: it goes
on to Docker Hub when its mirror refuses. To have the refusal count, name the
mirror: docker pull 127.0.0.1:5001/library/alpine:3.20

A dockerd that is started with --registry-mirror does not start with
registry-mirrors in daemon.json too: install refuses while such a one runs.`,
	}
	cmd.PersistentFlags().StringVar(&s.File, "config-file", "/etc/docker/daemon.json", "dockerd's --config-file")
	const (
		reload  = "Docker takes it up by 'systemctl reload docker', or at its next start."
		restart = "Docker goes on asking the node until 'systemctl restart docker'; a reload is enough only if other mirrors are left."
	)
	install := &cobra.Command{
		Use:   "install",
		Short: "Send pulls to the node first",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkMirror(mirror); err != nil {
				return err
			}
			if err := s.Install(mirror); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), reload)
			return err
		},
	}
	install.Flags().StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	uninstall := &cobra.Command{
		Use:   "uninstall",
		Short: "Restore what was there before",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.Uninstall(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), restart)
			return err
		},
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "Show which mirrors Docker is told to ask",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			mirrors, ours, err := s.Installed()
			if err != nil {
				return err
			}
			if ours == "" {
				fmt.Fprintln(cmd.OutOrStdout(), "no Pyrsia node is installed")
			}
			for _, m := range mirrors {
				by := ""
				if m == ours {
					by = "   (by pyrsia docker install)"
				}
				fmt.Fprintln(cmd.OutOrStdout(), m+by)
			}
			return nil
		},
	}
	cmd.AddCommand(install, uninstall, status)
	return cmd
}
