package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/containerd/criconfig"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// localOwner owns what a person sets up, and names no other owner.
const localOwner = "local"

const defaultCertsD = "/etc/containerd/certs.d"

func containerdCommand() *cobra.Command {
	var s containerd.Setup
	var config containerdConfig
	var distribution string
	cmd := &cobra.Command{
		Use:   "containerd",
		Short: "Make a node the registry mirror of this machine's containerd, or take that back",
		Long: `Writes certs.d/REGISTRY/hosts.toml, which containerd reads at each pull: nothing
needs a restart. Its configuration must have config_path set to that certs.d,
which status checks: it is for pods and crictl, and ctr wants --hosts-dir. What was there before is kept, and restored exactly by uninstall.

Each file names its owner. What another owner has set up is not touched: a second
node on this machine takes other registries and an --owner of its own. Who is
refused waits: when the owner uninstalls, it hands over to the one that waits,
if that one has tried again within a quarter of an hour. (A PyrsiaNode's mirror
hands over to those of its own namespace.)`,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return preset(cmd, distribution) },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&s.CertsD, "certs-d", defaultCertsD, "containerd's config_path")
	f.StringArrayVar(&s.Registries, "registry", []string{"docker.io"}, "registry that the node mirrors, Docker Hub under all its names, or _default for all that have no folder of their own (with --mode Fallback); may be repeated")
	f.StringVar(&s.Owner, "owner", localOwner, "whose set-up it is, for more than one node on this machine")
	config.flags(f)
	f.StringVar(&distribution, "distribution", "", "Kubernetes distribution of this machine, such as k3s, instead of --certs-d and --config")
	cmd.AddCommand(containerdInstall(&s, &config), containerdKeep(&s), containerdGuard(&s), containerdUninstall(&s), containerdStatus(&s, &config))
	return cmd
}

func containerdInstall(s *containerd.Setup, config *containerdConfig) *cobra.Command {
	var mirror, mode string
	var port portQuestion
	var handOver time.Duration
	var unchecked bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Send pulls to the node",
		Long: `Sends pulls of the registries to the node, in place of what the same owner had
set up before: registries that are not listed any more are restored. With --mode
Fallback the mirrors and registries that hosts.toml named before are asked after
the node. Install again after you have changed a folder _default.

The node must run: before anything is written its port must answer as a mirror
of Pyrsia, with --port-secret as this very one. If another program answers there,
what the same owner has sent there is restored, or with --mode Strict closed:
pulls are refused until the port is the node's again.

Exit status: 3 if another owner has one of the registries, 4 if the port is not
the mirror's, 6 if what is set up already cannot be kept; then nothing was set up.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkMirror(mirror); err != nil {
				return err
			}
			install := func() error {
				if !unchecked {
					if err := port.ask(cmd, *s, mirror); err != nil {
						return err
					}
				}
				restored, err := s.Install(mirror, containerd.Mode(mode))
				for _, name := range restored {
					fmt.Fprintf(cmd.OutOrStdout(), "Restored %s, which is not listed any more.\n", name)
				}
				return err
			}
			if err := takingTurns(cmd, *s, handOver, install); err != nil {
				return err
			}
			if !config.isHere(cmd.Context()) {
				return nil
			}
			if report := config.inspect(cmd.Context(), s.CertsD); report.Reads() != criconfig.Yes {
				fmt.Fprint(cmd.ErrOrStderr(), "Warning: ", report)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	f.StringVar(&mode, "mode", string(containerd.Strict), "Strict (what the node refuses is not pulled) or Fallback (goes on to the registry)")
	port.flags(cmd)
	f.DurationVar(&handOver, "hand-over", 0, "how long to wait for another owner of the same team to hand over, if an earlier attempt was refused: the first one fails at once, and says who has it")
	f.BoolVar(&unchecked, "no-port-check", false, "set up although the node does not run yet: whoever has the port is asked from then on")
	return cmd
}

// turnEvery is how often it is looked whether another owner has handed over.
const turnEvery = 2 * time.Second

// takingTurns calls install until no other mirror has a registry, for at most the
// given time: a container that failed each time would be restarted minutes after
// the other mirror has handed over. The first attempt fails immediately, because
// a container's message is read when it ends.
func takingTurns(cmd *cobra.Command, s containerd.Setup, limit time.Duration, install func() error) error {
	waits, err := s.Waits()
	if err != nil {
		return err
	}
	told := false
	for end := time.Now().Add(limit); ; {
		err := install()
		if _, owned := errors.AsType[*containerd.OwnedError](err); !owned || !waits || time.Now().After(end) {
			return err
		}
		if !told {
			fmt.Fprintf(cmd.ErrOrStderr(), "Waiting up to %s for a hand-over: %v\n", limit, err)
			told = true
		}
		select {
		case <-cmd.Context().Done():
			return err
		case <-time.After(turnEvery):
		}
	}
}

// portQuestion is how a port is asked whose it is.
type portQuestion struct {
	secretFile, socket string
	wait               time.Duration
}

func (q *portQuestion) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.secretFile, "port-secret", "", "file by which the port proves that it is this node's: frontend/port.secret in its data folder, or port.secret in the --dir of its 'pyrsia frontend'")
	f.StringVar(&q.socket, "port-socket", "", "port.sock in the --dir of the node's 'pyrsia frontend', which then asks the port: for where it is out of reach, as in a pod")
	f.DurationVar(&q.wait, "wait", 5*time.Second, "how long to wait for the node's port to answer")
}

// ask waits until the port is the mirror's. If another process has it, containerd
// shall not ask that one.
func (q portQuestion) ask(cmd *cobra.Command, s containerd.Setup, mirror string) error {
	err := q.check(cmd.Context(), mirror)
	wrong, ok := errors.AsType[*portproof.Error](err)
	if !ok || !wrong.Foreign {
		return err
	}
	closed, restored, failed := s.Disarm(mirror)
	if len(closed) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Closed %s until the port is the mirror's again: another process has it.\n", strings.Join(closed, ", "))
	}
	if len(restored) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Restored %s: another process has the port.\n", strings.Join(restored, ", "))
	}
	if failed != nil {
		return fmt.Errorf("%w (which is asked: %s)", failed, wrong.Found)
	}
	return err
}

func (q portQuestion) check(ctx context.Context, mirror string) (err error) {
	var secret []byte
	for end := time.Now().Add(q.wait); q.secretFile != ""; time.Sleep(100 * time.Millisecond) {
		// A socket proxy that comes up at this moment is about to make it.
		if secret, err = portproof.ReadSecret(q.secretFile); err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) || ctx.Err() != nil {
			return &portproof.Error{URL: mirror, Found: "its mirror has left no secret yet: " + err.Error()}
		}
	}
	return portproof.Check(ctx, mirror, secret, q.socket, q.wait)
}

// containerdGuard protects the slow start of a mirror: a process that was faster
// at its port is not asked until the mirror is ready.
func containerdGuard(s *containerd.Setup) *cobra.Command {
	var mirror string
	var port portQuestion
	cmd := &cobra.Command{
		Use:    "guard",
		Short:  "Send no pulls to the node's port if another process has it",
		Hidden: true,
		Args:   exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			armed, err := s.Armed(mirror)
			if err != nil || !armed {
				return err
			}
			err = port.ask(cmd, *s, mirror)
			if wrong, ok := errors.AsType[*portproof.Error](err); ok {
				fmt.Fprintln(cmd.ErrOrStderr(), wrong)
				return nil // the mirror may start: what it sets up is checked again
			}
			return err
		},
	}
	cmd.Flags().StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	port.flags(cmd)
	return cmd
}

func containerdUninstall(s *containerd.Setup) *cobra.Command {
	var mirror string
	var all bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Restore what was there before",
		Long: `Restores what was there before install, for all registries that the owner has,
or for those of --registry alone. What another owner has set up stays.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all || !cmd.Flags().Changed("registry") {
				s.Registries = nil
			}
			if err := s.Uninstall(mirror); err != nil {
				return err
			}
			return tellWhatStays(cmd, *s)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "restore all registries that the owner has, whatever --registry says")
	cmd.Flags().StringVar(&mirror, "mirror", "", "URL of the node's mirror port: of what v0.1.0 set up, which names no owner, restore this node's alone")
	return cmd
}

// tellWhatStays lists the folders that still send pulls to a node, and why:
// that is not a failure, but may be a surprise.
func tellWhatStays(cmd *cobra.Command, s containerd.Setup) error {
	installed, err := s.Installed()
	folders := map[string][]string{}
	for _, f := range installed {
		why := "it is not the set-up of " + s.Owner
		if f.Owner == s.Owner {
			why = "--registry does not name it"
		}
		stays := fmt.Sprintf("stays with %s at %s: %s", cmp.Or(f.Owner, "a mirror of v0.1.0"), f.Mirror, why)
		folders[stays] = append(folders[stays], f.Registry)
	}
	for _, stays := range slices.Sorted(maps.Keys(folders)) {
		fmt.Fprintln(cmd.ErrOrStderr(), strings.Join(folders[stays], ", "), stays)
	}
	return err
}

func containerdStatus(s *containerd.Setup, config *containerdConfig) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which registries' pulls go to a node, and whether containerd knows of it",
		Long: `READ is whether containerd's configuration leads to the file, and ASKED when
containerd last asked the mirror there for an image of that registry. That it has not
asked since the mirror was started is no fault: nothing may have been pulled.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := s.Status()
			if err != nil {
				return err
			}
			report := config.inspect(cmd.Context(), s.CertsD)
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "REGISTRY\tMODE\tMIRROR\tOWNER\tREAD\tASKED")
			mirrors := asked{}
			var installed, unread bool
			var reasons []string
			for _, state := range states {
				read, why := readBy(report, s.CertsD, state)
				if why != "" && !slices.Contains(reasons, why) {
					reasons = append(reasons, why)
				}
				installed = installed || state.Mode != ""
				unread = unread || state.Mode != "" && read != string(criconfig.Yes)
				asked := mirrors.by(cmd.Context(), state)
				if state.Mirror == containerd.Closed {
					state.Mirror = "closed: another process has the mirror's port"
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", state.Registry, cmp.Or(string(state.Mode), "-"), cmp.Or(state.Mirror, "-"), cmp.Or(state.Owner, "-"), read, asked)
			}
			if err := tw.Flush(); err != nil {
				return err
			}
			switch {
			case !installed && !config.isHere(cmd.Context()): // nothing to tell
			case !installed || report.Reads() == criconfig.Yes:
				fmt.Fprintf(cmd.OutOrStdout(), "\n%s", report)
			default:
				reasons = append(reasons, strings.TrimSuffix(report.String(), "\n"))
			}
			if unread {
				return errors.New(strings.Join(reasons, "\n"))
			}
			return nil
		},
	}
}

// checkMirror refuses what clients could not use as a mirror: dockerd would not
// even start with it.
func checkMirror(mirror string) error {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return fmt.Errorf("%w: --mirror %q: want the URL of a node's mirror port, such as http://127.0.0.1:5001", errUsage, mirror)
	}
	if strings.Contains(u.Hostname(), ":") {
		// 1.6 drops the whole hosts.toml, and pulls from the registry itself.
		return fmt.Errorf("%w: --mirror %q: containerd 1.6, podman and others cannot read an IPv6 address there; give a name that stands for it in /etc/hosts, such as http://ip6-localhost:5001", errUsage, mirror)
	}
	return nil
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
