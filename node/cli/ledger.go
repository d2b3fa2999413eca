package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	defaultNode  = "http://127.0.0.1:8080"
	queryTimeout = 30 * time.Second
	maxAnswer    = 16 << 20
)

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

// LogHelp says what can be asked for.
var LogHelp = fmt.Sprintf(`Asks a node for all blocks of an image, or of a digest: of an index, of a
platform's manifest, or an image ID. Any way will do in which a client shows one:
by its name, also the one at a mirror of this machine (127.0.0.1:5001/library/alpine:3.20),
by the digest that 'docker images --digests', crictl or a pod's imageID shows, by
both, or by the first %d digits of an ID or more. PLATFORMS counts what can be run:
attestations are none.`, ledger.MinDigits)

func logCommand() *cobra.Command {
	var nodeURL, output string
	cmd := &cobra.Command{
		Use:   "log IMAGE|DIGEST",
		Short: "Show what the ledger says of an image, newest first",
		Long:  LogHelp,
		Example: `  pyrsia log alpine:3.20
  pyrsia log alpine@sha256:...
  pyrsia log 127.0.0.1:5001/quay.io/org/image:1
  pyrsia log "$(docker images --quiet alpine:3.20)"`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			blocks, err := Query(cmd.Context(), nodeURL, args[0])
			if err != nil {
				return err
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(blocks)
			}
			if len(blocks) == 0 {
				return absent(args[0], nodeURL)
			}
			return table(cmd.OutOrStdout(), blocks)
		},
	}
	nodeFlag(cmd, &nodeURL)
	outputFlag(cmd, &output)
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

// Block asks a node for a block with its proof.
func Block(ctx context.Context, nodeURL string, height int64) (ledger.BlockJSON, error) {
	var b ledger.BlockJSON
	err := get(ctx, nodeURL, "/api/v1/blocks/"+strconv.FormatInt(height, 10), &b)
	return b, err
}

func get(ctx context.Context, nodeURL, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(nodeURL, "/")+path, nil)
	if err != nil {
		return fmt.Errorf("asking the node: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the node: %w; give the URL of a node's open port by --node", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("asking the node: %w", err)
	}
	if resp.StatusCode == http.StatusConflict { // it has understood the question, which has no one answer
		return errors.New(strings.TrimSpace(string(data)))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the node answered %s: %s", resp.Status, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the node's answer: %w", err)
	}
	return nil
}

func table(w io.Writer, blocks []ledger.BlockJSON) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "BLOCK\tTIME\tIMAGE\tDIGEST\tPLATFORMS")
	for _, b := range blocks {
		a, err := ledger.ParseEntry([]byte(b.Entry))
		if err != nil {
			fmt.Fprintf(tw, "%d\t(%v)\n", b.Height, err)
			continue
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%d", b.Height, a.Time.Format(time.RFC3339), a.Artifact, a.Digest, len(a.Images()))
		notes := withdrawals(b, a)
		if why := a.Exception(); why != "" {
			notes = append(notes, why)
		}
		if len(notes) > 0 {
			fmt.Fprintf(tw, "\t%s", strings.Join(notes, "; "))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// withdrawals say which digests of a block are withdrawn, and why.
func withdrawals(b ledger.BlockJSON, a *ledger.AddArtifact) (notes []string) {
	for _, w := range b.Withdrawn {
		what := ""
		if w.Digest != a.Digest {
			what = "platform " + w.Digest.String() + " "
		}
		notes = append(notes, fmt.Sprintf("%swithdrawn by block %d: %s", what, w.By, w.Reason))
	}
	return notes
}

// bundle is what 'pyrsia proof' writes: an entry and its tlog-proof, and those
// of each block that withdraws something of it.
type bundle struct {
	Entry     string   `json:"entry"`
	Proof     string   `json:"proof"`
	Withdrawn []bundle `json:"withdrawn,omitempty"`
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
			blocks, err := Query(cmd.Context(), nodeURL, args[0])
			if err != nil {
				return err
			}
			if len(blocks) == 0 {
				return absent(args[0], nodeURL)
			}
			b, err := Block(cmd.Context(), nodeURL, blocks[0].Height)
			if err != nil {
				return err
			}
			proof := bundle{Entry: b.Entry, Proof: b.Proof}
			for _, w := range b.Withdrawn {
				by, err := Block(cmd.Context(), nodeURL, w.By)
				if err != nil {
					return err
				}
				proof.Withdrawn = append(proof.Withdrawn, bundle{Entry: by.Entry, Proof: by.Proof})
				fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s is withdrawn by block %d: %s\n", w.Digest, w.By, w.Reason)
			}
			data, err := json.MarshalIndent(proof, "", "  ")
			if err != nil {
				return fmt.Errorf("writing the proof: %w", err)
			}
			if file == "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", data)
				return err
			}
			return os.WriteFile(file, append(data, '\n'), 0o644)
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "verified: %s@%s is block %d of %s, recorded %s%s\n",
				b.Artifact.Name(), ref.Digest(), b.Height, b.Checkpoint.Origin, b.Artifact.Time.Format(time.RFC3339), exception(b.Artifact))
			return err
		},
	}
	cmd.Flags().StringVar(&vkey, "key", "", "verifier key of the ledger, the newest")
	cmd.Flags().StringVar(&file, "proof", "", "file that 'pyrsia proof' wrote")
	outputFlag(cmd, &output)
	return cmd
}

// exception is what a block says of a tag that its registry did not have there.
func exception(a *ledger.AddArtifact) string {
	if why := a.Exception(); why != "" {
		return ", " + why
	}
	return ""
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

// verifyBundle checks a proof of the image with a digest, which must not say
// that the digest is withdrawn. What was withdrawn after the proof was made, it
// cannot say.
func verifyBundle(vkey, file string, d digest.Digest) (*ledger.VerifiedBlock, error) {
	key, err := ledger.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the proof: %w", err)
	}
	var in bundle
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("reading the proof: %w", err)
	}
	b, err := ledger.VerifyBlock(key, []byte(in.Entry), []byte(in.Proof))
	if err != nil {
		return nil, err
	}
	image, err := ledger.ParseImage(b.Artifact.Artifact)
	if err != nil {
		return nil, err
	}
	for _, w := range in.Withdrawn {
		for _, target := range []digest.Digest{b.Artifact.Digest, d} {
			by, reason, err := ledger.VerifyWithdrawal(key, []byte(w.Entry), []byte(w.Proof), ledger.Target{Image: image, Digest: target, Block: b.Height})
			if err == nil {
				return nil, fmt.Errorf("%s is block %d, and was withdrawn by the publisher in block %d: %s", b.Artifact.Artifact, b.Height, by.Height, reason)
			}
		}
	}
	return b, nil
}
