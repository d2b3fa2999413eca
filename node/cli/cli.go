// Package cli is the command line of pyrsia: it reads flags, starts a node,
// sets container clients up, and prints. It may import every package of node;
// only cmd/pyrsia calls it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/datafolder"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// errUsage marks a wrong use of a command: exit status 2.
var errUsage = errors.New("wrong use")

// Main runs the program and returns its exit status: 0 for success, 1 for a
// failure (also of a verification), 2 for a wrong use. 'containerd install' and
// 'init-data' have more, by which the operator tells what to say in a mirror's condition.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if calledByContainerd(args) {
		return verifyImage(ctx, args, stdout, stderr)
	}
	root := &cobra.Command{
		Use:   "pyrsia",
		Short: "A node of the Pyrsia network, and its command line",
		Long: `Pyrsia copies official container images from their registry onto a peer-to-peer
network and records each one in a signed, append-only ledger. Mirrors hand out
only what the ledger vouches for.`,
		Example: `  # A mirror for this machine's Docker or containerd, at 127.0.0.1:5001
  pyrsia node --role Mirror --data /var/lib/pyrsia --ledger-key VKEY --bootstrap ADDRESS

  # What does the ledger know of an image?
  pyrsia log alpine:3.20`,
		Version:       node.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w (%s --help)", errUsage, err, c.CommandPath())
	})
	root.AddCommand(dockerCommand(), registriesCommand(), imageVerifierCommand())
	root.AddCommand(nodeCommand(), keygenCommand(), logCommand(), proofCommand(), verifyCommand(),
		evidenceCommand(), fsckCommand(), restoreCommand(), statusCommand(), peersCommand(),
		containerdCommand(), planCommand(), frontendCommand(), initDataCommand(), removeDataCommand(), pauseCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "pyrsia:", err)
		return exitStatus(err)
	}
	return 0
}

func exitStatus(err error) int {
	if errors.Is(err, errUsage) {
		return 2
	}
	if _, ok := errors.AsType[*containerd.OwnedError](err); ok {
		return control.ExitRegistryTaken
	}
	if _, ok := errors.AsType[*portproof.Error](err); ok {
		return control.ExitPortTaken
	}
	if _, ok := errors.AsType[*datafolder.OwnedError](err); ok {
		return control.ExitFolderTaken
	}
	if _, ok := errors.AsType[*containerd.RefusedError](err); ok {
		return control.ExitSetUpRefused
	}
	return 1
}

// exactly demands n arguments.
func exactly(n int) cobra.PositionalArgs { return usage(cobra.ExactArgs(n)) }

// usage says of wrong arguments where the right ones are described.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return fmt.Errorf("%w: %w (%s --help)", errUsage, err, c.CommandPath())
		}
		return nil
	}
}
