package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd/criconfig"
	"github.com/pyrsia/pyrsia-operator/node/internal/imageverifier"
)

func imageVerifierCommand() *cobra.Command {
	var c imageverifier.Config
	var binDir string
	cmd := &cobra.Command{
		Use:   "image-verifier",
		Short: "Have containerd 2.1 and newer check every pull against the ledger, or take that back",
		Long: `containerd asks the programs in its image verifier's bin_dir before it pulls by its
transfer service, which CRI does since 2.1 unless its configuration keeps it from
that. Where containerd does not ask, it says nothing of it: status finds that out.
As one of them, pyrsia lets an image through if a node proves that the publisher
recorded it, wherever its bytes come from. The node is asked, and not believed:
the proof is checked with the ledger's key. Its settings are in ` + imageverifier.DefaultConfig + `.

In containerd's configuration:

  [plugins."io.containerd.image-verifier.v1.bindir"]
    bin_dir = "` + imageverifier.DefaultBinDir + `"`,
	}
	cmd.PersistentFlags().StringVar(&binDir, "bin-dir", imageverifier.DefaultBinDir, "containerd's bin_dir")
	install := &cobra.Command{
		Use:   "install --ledger-key VKEY",
		Short: "Put pyrsia into containerd's bin_dir",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("installing the image verifier: %w", err)
			}
			return imageverifier.Install(&c, verifierConfig(), binDir, self)
		},
	}
	install.Flags().StringVar(&c.Node, "node", defaultNode, "URL of a node's open port")
	install.Flags().StringVar(&c.LedgerKey, "ledger-key", "", "verifier key of the ledger to trust")
	install.Flags().StringArrayVar(&c.Registries, "registry", []string{"docker.io"}, "registry whose images must be on the ledger; may be repeated")
	uninstall := &cobra.Command{
		Use:   "uninstall",
		Short: "Take pyrsia out of containerd's bin_dir",
		Args:  exactly(0),
		RunE:  func(*cobra.Command, []string) error { return imageverifier.Uninstall(verifierConfig(), binDir) },
	}
	cmd.AddCommand(install, uninstall, imageVerifierStatus(&binDir))
	return cmd
}

func imageVerifierStatus(binDir *string) *cobra.Command {
	var config containerdConfig
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether containerd asks pyrsia before CRI pulls",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := imageverifier.ReadStatus(*binDir)
			if err != nil {
				return err
			}
			if status.Program == "" {
				return fmt.Errorf("%s has no %s: 'pyrsia image-verifier install' puts it there", *binDir, imageverifier.ProgramName)
			}
			if _, err := imageverifier.ReadConfig(verifierConfig()); err != nil {
				return fmt.Errorf("every image is refused, if containerd asks: %w", err)
			}
			report := config.inspect(cmd.Context(), defaultCertsD)
			answer, text := report.Verifier(*binDir, imageverifier.ProgramName, status.Others)
			if answer != criconfig.Yes {
				return errors.New(strings.TrimSuffix(text, "\n"))
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	config.flags(cmd.Flags())
	return cmd
}

func verifierConfig() string {
	if file := os.Getenv(imageverifier.ConfigVar); file != "" {
		return file
	}
	return imageverifier.DefaultConfig
}

// calledByContainerd tells whether the arguments are those of an image
// verifier (containerd docs/image-verification.md): with one dash, as none of
// pyrsia's own are.
func calledByContainerd(args []string) bool { return len(args) > 0 && args[0] == "-name" }

// verifyImage answers containerd: exit status 0 lets the image through, and
// the reason is on standard output in any case.
func verifyImage(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("pyrsia", flag.ContinueOnError)
	f.SetOutput(stderr)
	name := f.String("name", "", "image reference")
	d := f.String("digest", "", "digest that it resolves to")
	f.String("stdin-media-type", "", "what is on standard input")
	if err := f.Parse(args); err != nil || *name == "" || *d == "" {
		fmt.Fprintln(stderr, "pyrsia:", errors.Join(errUsage, err))
		return 2
	}
	c, err := imageverifier.ReadConfig(verifierConfig())
	if err == nil {
		var reason string
		if reason, err = c.Verify(ctx, *name, digest.Digest(*d)); err == nil {
			fmt.Fprintln(stdout, reason)
			return 0
		}
	}
	fmt.Fprintln(stdout, err)
	return 1
}
