package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/report"
)

const defaultNode = "http://127.0.0.1:8080"

func keygenCommand() *cobra.Command {
	var origin, file string
	cmd := &cobra.Command{
		Use:   "keygen --origin NAME --out FILE",
		Short: "Make the signing key of a new ledger",
		Long: `Writes the signing key to a new file that only you can read, and prints the
verifier key that readers pin. The origin is the ledger's name for ever: a
unique URL without a scheme, such as example.com/pyrsia.

To hand a ledger over to a new key, make it with the same origin, and put it on a
second line of the publisher's signing-key file. The publisher signs with both
and records the new key on the ledger, so that every mirror learns it, and asks
somebody to acknowledge it. When all have, and not before a day has passed, remove
the first line: from then on the old key is worth nothing.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if origin == "" || file == "" {
				return fmt.Errorf("%w: give --origin and --out", errUsage)
			}
			skey, vkey, err := ledger.GenerateKey(origin)
			if err != nil {
				return err
			}
			if err := durable.CreateSecret(file, []byte(skey+"\n")); err != nil {
				return fmt.Errorf("writing the signing key: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), vkey)
			return err
		},
	}
	cmd.Flags().StringVar(&origin, "origin", "", "name of the ledger: example.com/pyrsia")
	cmd.Flags().StringVar(&file, "out", "", "new file for the signing key")
	return cmd
}

func logCommand() *cobra.Command {
	var nodeURL, output string
	var l report.LogOptions
	cmd := &cobra.Command{
		Use:   "log [IMAGE|DIGEST]",
		Short: "Show the newest blocks of the ledger, or what it says of an image",
		Long:  report.LogHelp,
		Example: `  pyrsia log --since 24h
  pyrsia log alpine:3.20
  pyrsia log alpine@sha256:...
  pyrsia log 127.0.0.1:5001/quay.io/org/image:1
  pyrsia log "$(docker images --quiet alpine:3.20)"`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			filter, err := l.Filter(len(args) > 0, time.Now())
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			show := func(blocks []ledger.BlockJSON, first bool) error {
				if output == outputJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(append([]ledger.BlockJSON{}, blocks...))
				}
				return report.Blocks(cmd.OutOrStdout(), blocks, false, first)
			}
			if len(args) == 0 {
				return withFlag(l.Show(cmd.Context(), asking(nodeURL), filter, show))
			}
			blocks, err := find(cmd.Context(), nodeURL, args[0])
			if err != nil {
				return err
			}
			if len(blocks) == 0 && output != outputJSON {
				return report.Absent(args[0], nodeURL)
			}
			return show(blocks, true)
		},
	}
	nodeFlag(cmd, &nodeURL)
	outputFlag(cmd, &output)
	l.AddFlags(cmd.Flags())
	return cmd
}

func nodeFlag(cmd *cobra.Command, url *string) {
	cmd.Flags().StringVar(url, "node", defaultNode, "URL of a node's open port")
}

const (
	outputTable = "table"
	outputJSON  = "json"
)

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", outputTable, "table, or json for programs")
}

func checkOutput(output string) error {
	if output != outputTable && output != outputJSON {
		return fmt.Errorf("%w: --output %s: want %s or %s", errUsage, output, outputTable, outputJSON)
	}
	return nil
}

// asking is a client of the node at a URL.
func asking(nodeURL string) *client.Client { return client.New(nodeURL, http.DefaultClient) }

// withFlag says how to name another node, if the one that was asked is silent.
func withFlag(err error) error {
	if errors.Is(err, ledger.ErrSilent) {
		return fmt.Errorf("%w; give the URL of a node's open port by --node", err)
	}
	return err
}

// find asks a node which blocks a person means.
func find(ctx context.Context, nodeURL, what string) ([]ledger.BlockJSON, error) {
	ref, err := ledger.ParseReference(what)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	blocks, err := asking(nodeURL).Find(ctx, ref)
	return blocks, withFlag(err)
}

func proofCommand() *cobra.Command {
	var nodeURL, file string
	cmd := &cobra.Command{
		Use:   "proof IMAGE|DIGEST",
		Short: "Fetch the proof that an image is on the ledger",
		Long: `Writes the newest block of the image with its inclusion proof
(c2sp.org/tlog-proof) as a bundle for 'pyrsia verify'.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			blocks, err := find(cmd.Context(), nodeURL, args[0])
			if err != nil {
				return err
			}
			if len(blocks) == 0 {
				return report.Absent(args[0], nodeURL)
			}
			proof, withdrawn, err := asking(nodeURL).Proof(cmd.Context(), blocks[0].Height)
			if err != nil {
				return withFlag(err)
			}
			return report.Proof(cmd.OutOrStdout(), cmd.ErrOrStderr(), file, proof, withdrawn)
		},
	}
	nodeFlag(cmd, &nodeURL)
	cmd.Flags().StringVar(&file, "out", "", "file to write (default: standard output)")
	return cmd
}

func verifyCommand() *cobra.Command {
	var vkey, file, output string
	cmd := &cobra.Command{
		Use:   "verify --key VKEY --proof FILE IMAGE@DIGEST",
		Short: "Check a proof offline: exit status 0 means that the publisher recorded this image, and had not withdrawn it",
		Long: `Needs nothing but the ledger's verifier key and the file that 'pyrsia proof' wrote.
The key is the newest one that you have seen: whoever holds an earlier one, which
was rotated since, proves nothing by it. DIGEST is that of the image's index, of a
platform's manifest, or the image ID, with all its digits. IMAGE may be left out:
then the proof is for whatever name the digest is recorded under, which is shown.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if vkey == "" || file == "" {
				return fmt.Errorf("%w: give IMAGE@sha256:..., --key and --proof", errUsage)
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			ref, err := ledger.ParseReference(args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			if !ref.Whole() {
				return fmt.Errorf("%w: a proof is checked for all digits of a digest: give IMAGE@sha256:DIGITS with all 64", errUsage)
			}
			b, err := verifyBundle(vkey, file, ref.Digest())
			if err != nil {
				return err
			}
			if ref.Named() && !ref.Means(b.Artifact.Artifact) || !b.Artifact.Names(ref.Digest()) {
				return fmt.Errorf("the proof is good, but for %s@%s", b.Artifact.Artifact, b.Artifact.Digest)
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(verifiedJSON{
					Artifact: b.Artifact.Artifact, Digest: b.Artifact.Digest.String(), Block: b.Height,
					Origin: b.Checkpoint.Origin, Recorded: b.Artifact.Time, SeenAt: b.Artifact.SeenAt, Pinned: b.Artifact.Pinned,
				})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), report.Verified(b, ref.Digest()))
			return err
		},
	}
	cmd.Flags().StringVar(&vkey, "key", "", "verifier key of the ledger, the newest")
	cmd.Flags().StringVar(&file, "proof", "", "file that 'pyrsia proof' wrote")
	outputFlag(cmd, &output)
	return cmd
}

// verifiedJSON is the answer of 'pyrsia verify -o json'.
type verifiedJSON struct {
	Artifact string    `json:"artifact"`
	Digest   string    `json:"digest"`
	Block    int64     `json:"block"`
	Origin   string    `json:"origin"`
	Recorded time.Time `json:"recorded"`
	// SeenAt and Pinned are the block's, where its registry's tag pointed elsewhere.
	SeenAt time.Time `json:"seenAt,omitzero"`
	Pinned bool      `json:"pinned,omitempty"`
}

// verifyBundle checks the proof in a file.
func verifyBundle(vkey, file string, d digest.Digest) (*ledger.VerifiedBlock, error) {
	key, err := ledger.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the proof: %w", err)
	}
	var in ledger.Bundle
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("reading the proof: %w", err)
	}
	return in.Verify(key, d)
}
