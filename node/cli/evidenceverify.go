package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
	"github.com/pyrsia/pyrsia-operator/node/ledger/policy"
)

// errNotConvicted ends the command with status 1 after the verdict was printed.
var errNotConvicted = errors.New("the evidence convicts nobody")

func verifyEvidenceCommand() *cobra.Command {
	var vkeys []string
	var policyFile, output string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Judge whether evidence proves that a key signed two histories",
		Long: `Takes a file of ledger/evidence in a node's data folder, or one item of what
'pyrsia evidence -o json' lists, and judges it by the signatures in it alone: no
node is asked, and nothing else that it says is believed.

A key is convicted, a publisher's as well as a cosigner's, that signed two
checkpoints of which at most one can be true. Whoever follows the rules never signs
both; so its holder does not, or somebody else has the key. A smaller ledger that is
signed after a larger one is no proof, nor is what two different keys signed.

The file names the keys, and anyone can make a file about a key of his own: give
those that you trust by --key, or a policy with them by --policy. Keys to which the
ledger was handed over from a given one count as well, by the proofs in the file.

The status is 0 if a key is convicted: a given one, if some are given. Else it is 1.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			trusted, err := trustedKeys(vkeys, policyFile)
			if err != nil {
				return err
			}
			file, err := readBounded(args[0], ledger.MaxEvidenceFile)
			if err != nil {
				return fmt.Errorf("reading the evidence: %w", err)
			}
			var given []string
			for _, k := range trusted {
				given = append(given, k.Key.String())
			}
			j, err := ledger.Convict(file, given...)
			if err != nil {
				return err
			}
			return printJudgement(cmd.OutOrStdout(), j, trusted, output)
		},
	}
	cmd.Flags().StringArrayVar(&vkeys, "key", nil, "verifier key that you trust, of the publisher or a cosigner; may be repeated")
	cmd.Flags().StringVar(&policyFile, "policy", "", "file with a policy (c2sp.org/tlog-policy) whose keys you trust")
	outputFlag(cmd, &output)
	return cmd
}

// trustedKeys are those that the user gives.
func trustedKeys(vkeys []string, policyFile string) (out []policy.Named, err error) {
	for _, vkey := range vkeys {
		k, err := cosign.ParseKey(vkey)
		if err != nil {
			return nil, fmt.Errorf("%w: --key: %w", errUsage, err)
		}
		out = append(out, policy.Named{Name: "the key of --key", Key: k})
	}
	if policyFile == "" {
		return out, nil
	}
	text, err := readBounded(policyFile, policy.MaxText)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, err
	}
	for _, k := range p.Keys() {
		out = append(out, policy.Named{Name: fmt.Sprintf("%q of the policy", k.Name), Key: k.Key})
	}
	return out, nil
}

func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return data, err
}

// verdict is what is printed.
type verdict struct {
	Convicted     []convicted `json:"convicted"`
	Contradiction string      `json:"contradiction,omitempty"`
	Suspicion     string      `json:"suspicion,omitempty"`
}

type convicted struct {
	Key       string `json:"key"`
	Algorithm string `json:"algorithm"`
	// Trusted says by what the user trusts the key; empty if the user does not.
	Trusted string `json:"trusted,omitempty"`
}

func printJudgement(w io.Writer, j *ledger.Judgement, trusted []policy.Named, output string) error {
	v := verdict{Convicted: []convicted{}, Contradiction: j.Contradiction, Suspicion: j.Suspicion}
	proven := false
	for _, k := range j.Convicted {
		c := convicted{Key: k.String(), Algorithm: k.Algorithm().String(), Trusted: trustIn(k, trusted, j.Rotations)}
		proven = proven || c.Trusted != "" || len(trusted) == 0
		v.Convicted = append(v.Convicted, c)
	}
	if err := v.print(w, output, len(trusted) > 0); err != nil {
		return err
	}
	switch {
	case proven:
		return nil
	case len(j.Convicted) > 0:
		return fmt.Errorf("%w whose key you gave", errNotConvicted)
	default:
		return errNotConvicted
	}
}

func (v verdict) print(w io.Writer, output string, some bool) error {
	if output == outputJSON {
		return json.NewEncoder(w).Encode(v)
	}
	if len(v.Convicted) == 0 {
		but := v.Suspicion
		if v.Contradiction != "" {
			but = v.Contradiction + ": " + but
		}
		_, err := fmt.Fprintln(w, "NOT CONVICTED:", but)
		return err
	}
	for _, c := range v.Convicted {
		switch {
		case c.Trusted != "":
			fmt.Fprintf(w, "CONVICTED: %s\n  %s; trusted as %s\n", c.Key, c.Algorithm, c.Trusted)
		case some:
			fmt.Fprintf(w, "NOT YOURS: %s\n  %s; none that you gave\n", c.Key, c.Algorithm)
		default:
			fmt.Fprintf(w, "CONVICTED: %s\n  %s; compare the whole key with the one that you trust\n", c.Key, c.Algorithm)
		}
	}
	_, err := fmt.Fprintln(w, "It signed", v.Contradiction+".\nWho follows the rules never signs both: its holder does not, or somebody else has the key.")
	return err
}

// trustIn says by what a convicted key is trusted; empty if it is not.
func trustIn(k *cosign.Key, trusted []policy.Named, rotations []ledger.Rotation) string {
	for _, t := range trusted {
		if k.Name() == t.Key.Name() && k.SamePublicKey(t.Key) {
			return t.Name
		}
		if v, err := ledger.NewVerifier(t.Key.String()); err == nil && v.WithAll(rotations).Trusts(k.String()) {
			return "a successor of " + t.Name
		}
	}
	return ""
}
