package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/registries"
)

// maxElsewhere bounds the short names that are shown.
const maxElsewhere = 10

func registriesCommand() *cobra.Command {
	s := registries.Here()
	cmd := &cobra.Command{
		Use:   "registries",
		Short: "Make a node the registry mirror of podman, skopeo, buildah and CRI-O, or take that back",
		Long: `Writes one drop-in, zz-pyrsia.conf, into registries.conf.d of /etc/containers, or,
without root, of the user's ~/.config/containers; uninstall removes it. podman,
skopeo and buildah read it at each run, CRI-O when it is told to ('systemctl reload
crio'), and a running 'podman system service' after a restart.

Images can be named at the node too: podman pull 127.0.0.1:5001/quay.io/org/image:1.

With --mode Strict the registry itself is blocked, and the node its only mirror:
nothing is pulled around it, and nothing can be pushed to it. With Fallback the node
is asked first, and then what was set up before: its mirrors, and the registry.

These clients let the longest prefix count, and of equal ones that in the last
file. Until podman 5 a user's own registries.conf takes the place of all of
/etc/containers for that user; since podman 6 there is /usr/share/containers too, and
drop-ins are read in the order of their names, from all folders. Since then, too, no
drop-in is read where CONTAINERS_REGISTRIES_CONF is set: it is looked for in the
environment here, in /etc/environment, in the units crio.service and podman.service,
and in containers.conf. Where such a setting would lead around the node, install
refuses with Strict, and tells it with Fallback; status finds what has come since.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&s.Folder, "folder", s.Folder, "folder of registries.conf.d")
	f.StringArrayVar(&s.Registries, "registry", []string{"docker.io"}, "registry that the node mirrors, Docker Hub under all its names; may be repeated")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		if s.Folder != s.User && s.Folder != s.System { // of a root file system elsewhere
			s.System, s.Vendor, s.User, s.XDG = s.Folder, s.Folder, s.Folder, s.Folder
			s.Getenv, s.Login, s.Units = nil, "", nil
		}
		return nil
	}
	cmd.AddCommand(registriesInstall(&s), registriesUninstall(&s), registriesStatus(&s))
	return cmd
}

func registriesInstall(s *registries.Setup) *cobra.Command {
	var mirror, mode string
	var port portQuestion
	var unchecked bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Send pulls to the node",
		Long: `Sends pulls of the registries to the node, in place of what was installed before.
The node must run: its port must answer as a mirror of Pyrsia, with --port-secret as
this very one. Exit status: 4 if it does not; then nothing was set up.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkMirror(mirror); err != nil {
				return err
			}
			if !unchecked {
				if err := port.check(cmd.Context(), mirror); err != nil {
					return err
				}
			}
			around, err := s.Install(mirror, registries.Mode(mode))
			if err != nil {
				return err
			}
			for _, a := range around {
				fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", a)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "podman, skopeo and buildah ask the node for images of %s from their next run on (%s); CRI-O does after 'systemctl reload crio'.\n",
				strings.Join(s.Registries, ", "), mode)
			return tellElsewhere(cmd.OutOrStdout(), *s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	f.StringVar(&mode, "mode", string(registries.Strict), "Strict (what the node refuses is not pulled) or Fallback (goes on to the registry)")
	port.flags(cmd)
	f.BoolVar(&unchecked, "no-port-check", false, "set up although the node does not run yet: whoever has the port is asked from then on")
	return cmd
}

// tellElsewhere says which short names lead to registries that the node is not asked for.
func tellElsewhere(w io.Writer, s registries.Setup) error {
	names, err := s.Elsewhere()
	if err != nil || len(names) == 0 {
		return err
	}
	more := ""
	if len(names) > maxElsewhere {
		names, more = names[:maxElsewhere], fmt.Sprintf(" and %d more", len(names)-maxElsewhere)
	}
	_, err = fmt.Fprintf(w, "Short names that lead to other registries, which --registry can add: %s%s.\n", strings.Join(names, ", "), more)
	return err
}

func registriesUninstall(s *registries.Setup) *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the drop-in",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.Uninstall(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "podman, skopeo and buildah ask the node no more; CRI-O does until 'systemctl reload crio'.")
			return err
		},
	}
}

func registriesStatus(s *registries.Setup) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which registries' pulls go to a node, and what leads around it",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, around, err := s.Status()
			if err != nil {
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "REGISTRY\tMODE\tMIRROR")
			installed := false
			for _, state := range states {
				installed = installed || state.Mode != ""
				fmt.Fprintf(tw, "%s\t%s\t%s\n", state.Registry, cmp.Or(string(state.Mode), "-"), cmp.Or(state.Mirror, "-"))
			}
			if err := tw.Flush(); err != nil || !installed {
				return err
			}
			return errors.Join(append(around, tellElsewhere(cmd.OutOrStdout(), *s))...)
		},
	}
}
