package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/docker"
)

// dockerSetup is how this machine's Docker is to ask a node, in both ways that it has.
type dockerSetup struct {
	file   docker.Setup     // registry-mirrors in daemon.json
	certs  containerd.Setup // hosts.toml in certs.d, which is containerd's format
	socket string
	store  string // its image store, if it is not asked
}

func dockerCommand() *cobra.Command {
	d := new(dockerSetup)
	d.file, d.certs.CertsD, d.socket = docker.Here()
	cmd := &cobra.Command{
		Use:   "docker",
		Short: "Make a node the registry mirror of this machine's Docker, or take that back",
		Long: `Which way Docker has to a mirror depends on its image store, which is asked for
at its socket:

containerd   The image store of a new Docker 29, and of older ones that were told
             so. It reads certs.d/REGISTRY/hosts.toml at each pull: any registry,
             with --mode Strict without a way around the node, for 'docker pull' and
             'docker build'. Nothing needs a reload. 'docker push' to a registry that
             is strict goes to the node too, which refuses it, and 'docker pull -a'
             lists the tags, and nothing else, at the registry itself.
graph-driver The image store before. It asks registry-mirrors of daemon.json, for
             Docker Hub alone, and goes on to Docker Hub when its mirror refuses: it
             has no strict mode. To have the refusal count, name the mirror:
             docker pull 127.0.0.1:5001/library/alpine:3.20, or
             docker pull 127.0.0.1:5001/quay.io/org/image:1 for another registry.

All other settings stay, and uninstall restores the files exactly. Without root it
is the user's rootless Docker that is set up.

A dockerd that is started with --registry-mirror does not start with
registry-mirrors in daemon.json too: install refuses that, by what runs, by the
unit docker.service with its drop-ins, and by dockerd --validate.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&d.file.File, "config-file", d.file.File, "dockerd's --config-file")
	f.StringVar(&d.certs.CertsD, "certs-d", d.certs.CertsD, "folder of Docker's hosts.toml")
	f.StringVar(&d.socket, "docker-socket", d.socket, "where Docker answers")
	f.StringVar(&d.store, "image-store", "", "containerd or graph-driver, instead of asking Docker")
	f.StringArrayVar(&d.certs.Registries, "registry", []string{"docker.io"}, "registry that the node mirrors, Docker Hub under all its names; may be repeated")
	f.StringVar(&d.certs.Owner, "owner", localOwner, "whose set-up of certs.d it is, for more than one node on this machine")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		if d.store != "" && d.store != docker.StoreContainerd && d.store != docker.StoreGraphDriver {
			return fmt.Errorf("%w: --image-store %s: want %s or %s", errUsage, d.store, docker.StoreContainerd, docker.StoreGraphDriver)
		}
		return nil
	}
	cmd.AddCommand(d.installCommand(), d.uninstallCommand(), d.statusCommand())
	return cmd
}

// imageStore finds out which image store Docker has; unknown says why it is not known.
func (d *dockerSetup) imageStore(ctx context.Context) (store string, unknown error) {
	if d.store != "" {
		return d.store, nil
	}
	engine, unknown := docker.Ask(ctx, d.socket)
	if unknown == nil {
		return engine.ImageStore, nil
	}
	if state, err := d.file.Status(); err == nil && state.ImageStore != "" {
		return state.ImageStore, nil
	}
	return "", unknown
}

func (d *dockerSetup) installCommand() *cobra.Command {
	var mirror, mode string
	var port portQuestion
	var unchecked bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Send pulls to the node",
		Long: `Sends Docker's pulls to the node, in place of what was set up before, and says in
which of both ways. The node must run: its port must answer as a mirror of Pyrsia,
with --port-secret as this very one.

Exit status: 3 if another owner has one of the registries, 4 if the port is not
the mirror's; then nothing was set up.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkMirror(mirror); err != nil {
				return err
			}
			store, unknown := d.imageStore(cmd.Context())
			way, err := d.way(store, mode, unknown)
			if err != nil {
				return err
			}
			if !unchecked {
				if err := port.ask(cmd, d.certs, mirror); err != nil {
					return err
				}
			}
			if store == docker.StoreContainerd {
				return d.installHosts(cmd, mirror, way)
			}
			return d.installMirrors(cmd, mirror, unknown)
		},
	}
	f := cmd.Flags()
	f.StringVar(&mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	f.StringVar(&mode, "mode", "", "Strict (what the node refuses is not pulled) or Fallback (goes on to the registry); default: Strict with the containerd image store, which alone has it")
	port.flags(cmd)
	f.BoolVar(&unchecked, "no-port-check", false, "set up although the node does not run yet: whoever has the port is asked from then on")
	return cmd
}

// way is the mode that the image store allows.
func (d *dockerSetup) way(store, mode string, unknown error) (containerd.Mode, error) {
	if store == docker.StoreContainerd {
		return containerd.Mode(cmp.Or(mode, string(containerd.Strict))), nil
	}
	const other = "give Docker the containerd image store (\"features\": {\"containerd-snapshotter\": true} in daemon.json, and a restart)"
	switch {
	case mode != "" && mode != string(containerd.Strict) && mode != string(containerd.Fallback):
		return "", fmt.Errorf("%w: --mode %s: want %s or %s", errUsage, mode, containerd.Strict, containerd.Fallback)
	case mode == string(containerd.Strict) && unknown != nil:
		return "", fmt.Errorf("%w: only its containerd image store can be strict, and which one Docker has is not known: start Docker, or give --image-store", unknown)
	case mode == string(containerd.Strict):
		return "", fmt.Errorf("dockerd has the graph-driver image store here, which has no strict mode: %s, or take --mode Fallback, with which Docker goes on to Docker Hub when the node refuses", other)
	case !slices.Equal(d.certs.Registries, []string{"docker.io"}):
		return "", fmt.Errorf("registry-mirrors are for Docker Hub alone: name the mirror in images of other registries (docker pull 127.0.0.1:5001/quay.io/org/image), or %s", other)
	}
	return containerd.Fallback, nil
}

// home is the set-up of the folder that certs.d is in, which may not be there.
func (d *dockerSetup) home() docker.Setup {
	s := d.file
	s.File = filepath.Join(filepath.Dir(filepath.Clean(d.certs.CertsD)), filepath.Base(s.File))
	return s
}

// installHosts sets the containerd image store up.
func (d *dockerSetup) installHosts(cmd *cobra.Command, mirror string, mode containerd.Mode) error {
	if err := d.takeOutMirror(cmd); err != nil {
		return err
	}
	if err := d.home().MakeFolder(); err != nil {
		return err
	}
	restored, err := d.certs.Install(mirror, mode)
	for _, name := range restored {
		fmt.Fprintf(cmd.OutOrStdout(), "Restored %s, which is not listed any more.\n", name)
	}
	if err != nil {
		return err
	}
	note := "what the node refuses is pulled from the registry itself"
	if mode == containerd.Strict {
		note = "what the node refuses is not pulled, and nothing can be pushed to them"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Docker asks the node for images of %s from its next pull on, by hosts.toml in %s (%s: %s).\n",
		strings.Join(d.certs.Registries, ", "), d.certs.CertsD, mode, note)
	return err
}

// installMirrors sets up what either image store reads, for Docker Hub.
func (d *dockerSetup) installMirrors(cmd *cobra.Command, mirror string, unknown error) error {
	own := d.certs
	own.Registries = nil
	if err := own.Uninstall(""); err != nil {
		return err
	}
	if err := d.file.Install(mirror); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Docker asks the node first for images of Docker Hub, by registry-mirrors in %s, and goes on to Docker Hub when the node refuses.\n", d.file.File)
	fmt.Fprintf(out, "It takes that up by '%s', or at its next start.\n", docker.Reload())
	if unknown == nil {
		return nil
	}
	fmt.Fprintf(out, "%v. If it turns out to have the containerd image store, install again: that one can be strict.\n", unknown)
	file, err := docker.Overrides(d.certs.CertsD)
	if file != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "Warning: with the containerd image store %s has Docker take no notice of registry-mirrors.\n", file)
	}
	return err
}

func (d *dockerSetup) uninstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Restore what was there before",
		Long: `Restores what was there before install, in certs.d (of the registries of --registry
alone, if it is given) and in daemon.json.

A dockerd that is told to read daemon.json again keeps the mirrors that it had,
unless the file says that there are none. So a dockerd that runs is left an empty
registry-mirrors, if the file had none before: reload it, and run uninstall again.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			certs := d.certs
			if !cmd.Flags().Changed("registry") {
				certs.Registries = nil
			}
			if err := certs.Uninstall(""); err != nil {
				return err
			}
			if err := tellWhatStays(cmd, certs); err != nil {
				return err
			}
			if err := d.takeOutMirror(cmd); err != nil || d.home().File == d.file.File {
				return err
			}
			_, err := d.home().Uninstall(false) // of the folder alone
			return err
		},
	}
}

// takeOutMirror restores daemon.json, and says what is left to do.
func (d *dockerSetup) takeOutMirror(cmd *cobra.Command) error {
	before, err := d.file.Status()
	if err != nil {
		return err
	}
	asks, err := d.asks(cmd.Context(), before.Installed)
	if err != nil {
		return err
	}
	emptied, err := d.file.Uninstall(asks)
	if err != nil || before.Installed == "" {
		return err
	}
	switch {
	case emptied:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "Docker asks the node until '%s'. %s says until then that there are no mirrors: run 'pyrsia docker uninstall' again after it, and the file is as it was before.\n", docker.Reload(), d.file.File)
	case asks:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is as it was before. Docker asks the node until '%s'.\n", d.file.File, docker.Reload())
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is as it was before.\n", d.file.File)
	}
	return err
}

// asks tells whether a dockerd may ask a mirror because of the file: one that
// runs, unless it says that it does not.
func (d *dockerSetup) asks(ctx context.Context, mirror string) (bool, error) {
	if mirror == "" {
		return false, nil
	}
	running, err := d.file.Running()
	if err != nil || !running {
		return false, err
	}
	engine, err := docker.Ask(ctx, d.socket)
	return err != nil || engine.Asks(mirror), nil
}

func (d *dockerSetup) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which pulls of Docker go to a node, and by what",
		Long: `Shows what is set up, and whether Docker goes by it. Exit status 1: what install
has set up is not what Docker goes by, or that is not known.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			engine, unknown := docker.Ask(cmd.Context(), d.socket)
			store := d.store
			if unknown == nil {
				store = cmp.Or(store, engine.ImageStore)
				fmt.Fprintf(cmd.OutOrStdout(), "Docker %s answers at %s; its image store is %s.\n", engine.Version, d.socket, engine.ImageStore)
			}
			state, err := d.file.Status()
			if err != nil {
				return err
			}
			hosts, err := d.certs.Installed()
			if err != nil {
				return err
			}
			err = d.show(cmd.OutOrStdout(), state, hosts)
			return errors.Join(err, d.judge(cmp.Or(store, state.ImageStore), engine, unknown, state, hosts))
		},
	}
}

// show shows what is set up.
func (d *dockerSetup) show(w io.Writer, state docker.State, hosts []containerd.State) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "REGISTRY\tMODE\tMIRROR\tBY")
	shown := false
	for _, h := range hosts {
		if h.Mirror == containerd.Closed {
			h.Mirror = "closed: another process has the mirror's port"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", h.Registry, h.Mode, h.Mirror, "hosts.toml in "+d.certs.CertsD)
		shown = true
	}
	for _, m := range state.Mirrors {
		by := "registry-mirrors in " + d.file.File
		if m == state.Ours {
			by += " (added by pyrsia docker install)"
		}
		fmt.Fprintf(tw, "docker.io\t%s\t%s\t%s\n", containerd.Fallback, docker.Shown(m), by)
		shown = true
	}
	if !shown {
		fmt.Fprintln(tw, "docker.io\t-\t-\t-")
	}
	if state.Emptied {
		fmt.Fprintf(tw, "%s says that there are no mirrors: run 'pyrsia docker uninstall' again after Docker was reloaded.\n", d.file.File)
	}
	return tw.Flush()
}

// judge says why Docker does not go by what was installed.
func (d *dockerSetup) judge(store string, engine *docker.Engine, unknown error, state docker.State, hosts []containerd.State) error {
	isSet := len(hosts) > 0
	override, err := docker.Overrides(d.certs.CertsD)
	switch {
	case !isSet && state.Ours == "":
		return nil
	case err != nil && store != docker.StoreGraphDriver:
		return err
	case isSet && store == docker.StoreGraphDriver:
		return fmt.Errorf("the image store of dockerd is graph-driver: hosts.toml in %s counts for 'docker build' alone, and 'docker pull' goes around the node; install again", d.certs.CertsD)
	case store == "":
		return fmt.Errorf("%w: which image store it has, and so which of hosts.toml and registry-mirrors counts, is not known; start Docker, or give --image-store", unknown)
	case state.Ours != "" && override != "" && store == docker.StoreContainerd && !isSet:
		return fmt.Errorf("the node is not asked: with the containerd image store %s has Docker take no notice of registry-mirrors; install again, and hosts.toml is used", override)
	case state.Ours != "" && !isSet && unknown != nil:
		return fmt.Errorf("%w: whether it has taken registry-mirrors up is not known", unknown)
	case state.Ours != "" && !isSet && !engine.Asks(state.Ours):
		return fmt.Errorf("dockerd has not taken registry-mirrors of %s up: '%s'", d.file.File, docker.Reload())
	}
	return nil
}
