package cli

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
)

func containerdCommand() *cobra.Command {
	var s containerd.Setup
	var config, mirror, mode string
	cmd := &cobra.Command{
		Use:   "containerd",
		Short: "Make a node the registry mirror of this machine's containerd, or take that back",
		Long: `Writes certs.d/REGISTRY/hosts.toml, which containerd reads at each pull: nothing
needs a restart. Its configuration must have config_path set to that certs.d,
which status checks: it is for pods and crictl, and ctr wants --hosts-dir. What was there before is kept, and restored exactly by uninstall.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&s.CertsD, "certs-d", "/etc/containerd/certs.d", "containerd's config_path")
	f.StringArrayVar(&s.Registries, "registry", []string{"docker.io"}, "registry that the node mirrors; may be repeated")

	f.StringVar(&config, "config", "/etc/containerd/config.toml", "containerd's configuration")

	install := &cobra.Command{
		Use:   "install",
		Short: "Send pulls to the node",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkMirror(mirror); err != nil {
				return err
			}
			if err := s.Install(mirror, containerd.Mode(mode)); err != nil {
				return err
			}
			if _, err := os.Stat(config); err != nil {
				return nil // in a pod it is out of reach
			}
			if err := s.CheckConfig(config); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", err)
			}
			return nil
		},
	}
	install.Flags().StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	install.Flags().StringVar(&mode, "mode", string(containerd.Strict), "Strict (what the node refuses is not pulled) or Fallback (goes on to the registry)")

	uninstall := &cobra.Command{
		Use:   "uninstall",
		Short: "Restore what was there before",
		Args:  exactly(0),
		RunE:  func(*cobra.Command, []string) error { return s.Uninstall() },
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "Show which registries' pulls go to a node, and whether containerd knows of it",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := s.Status()
			if err != nil {
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "REGISTRY\tMODE\tMIRROR")
			installed := false
			for _, s := range states {
				if s.Mode == "" {
					s.Mode, s.Mirror = "-", "-"
				} else {
					installed = true
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\n", s.Registry, s.Mode, s.Mirror)
			}
			if err := tw.Flush(); err != nil || !installed {
				return err
			}
			if err := s.CheckConfig(config); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\ncontainerd reads %s, by %s.\n", s.CertsD, config)
			return nil
		},
	}
	cmd.AddCommand(install, uninstall, status)
	return cmd
}

// checkMirror refuses what clients could not use as a mirror: dockerd would not
// even start with it.
func checkMirror(mirror string) error {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return fmt.Errorf("%w: --mirror %q: want the URL of a node's mirror port, such as http://127.0.0.1:5001", errUsage, mirror)
	}
	return nil
}

// initDataCommand prepares a host path for a node that runs without
// privileges: the one thing that needs root there.
func initDataCommand() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:    "init-data DIR... --owner UID:GID",
		Short:  "Give a node's data folders to the user that the node runs as",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			u, g, _ := strings.Cut(owner, ":")
			uid, err1 := strconv.Atoi(u)
			gid, err2 := strconv.Atoi(g)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("%w: --owner UID:GID", errUsage)
			}
			for _, dir := range args {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return fmt.Errorf("preparing the data folder: %w", err)
				}
				if err := os.Chown(dir, uid, gid); err != nil {
					return fmt.Errorf("preparing the data folder: %w", err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&owner, "owner", "65532:65532", "UID:GID")
	return cmd
}

// nodeData is all that a node, or the frontend before it, makes in its data folder.
var nodeData = []string{"ledger", "store", "frontend", "identity.key", "peers.json", "receipts.json"}

// removeDataCommand removes a node's data from a host path when the node is
// deleted: another ledger may be followed there next. What else is in that
// folder is the user's.
func removeDataCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "remove-data DIR",
		Short:  "Remove a node's data from its data folder, and nothing else",
		Hidden: true,
		Args:   exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, name := range nodeData {
				if err := os.RemoveAll(filepath.Join(args[0], name)); err != nil {
					return fmt.Errorf("removing the node's data: %w", err)
				}
			}
			return nil
		},
	}
}

// pauseCommand is what a pod runs whose work its init containers have done.
func pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "pause",
		Short:  "Wait until ended",
		Hidden: true,
		Args:   exactly(0),
		RunE:   func(cmd *cobra.Command, _ []string) error { <-cmd.Context().Done(); return nil },
	}
}
