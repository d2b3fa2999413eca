package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/cli"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func (c *cluster) verifyCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "verify IMAGE[@DIGEST]|DIGEST",
		Short: "Check on this machine that an image is on the ledger, by the proofs of the Artifacts",
		Long: `Checks the proof of each Artifact of the image, of all its digests or of the one
that is given: of its index, of a platform's manifest, or its image ID. IMAGE is a
name in any way in which clients show it, also the one at a mirror. The key is
the one that the operator has pinned; --key is one that you know from elsewhere,
and then nothing in the cluster is trusted. Where the key was rotated since an
Artifact was published, a node proves it again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := ledger.ParseReference(args[0])
			if err != nil {
				return err
			}
			if ref.Digits != "" && !ref.Whole() {
				return errors.New("a proof is checked for all digits of a digest: give IMAGE@sha256:DIGITS with all 64, or IMAGE alone")
			}
			var list v1alpha1.ArtifactList
			if err := c.client.List(cmd.Context(), &list, client.InNamespace(c.namespace)); err != nil {
				return fmt.Errorf("listing the Artifacts: %w", err)
			}
			found := 0
			for _, a := range list.Items {
				if a.Status.Block == nil || ref.Named() && !ref.Means(a.Spec.Image) {
					continue
				}
				if entry, err := ledger.ParseEntry([]byte(a.Status.Block.Entry)); err == nil && ref.Digits != "" && !entry.Names(ref.Digest()) {
					continue
				}
				block, err := c.check(cmd.Context(), &a, key)
				if err != nil {
					return fmt.Errorf("verifying Artifact %s: %w", a.Name, err)
				}
				if ref.Digits != "" && !block.Artifact.Names(ref.Digest()) {
					continue
				}
				found++
				fmt.Fprintf(cmd.OutOrStdout(), "verified: %s@%s is block %d of %s, recorded %s%s%s\n", block.Artifact.Name(), block.Artifact.Digest,
					block.Height, block.Checkpoint.Origin, block.Artifact.Time.Format(time.RFC3339), exception(block.Artifact), withdrawn(&a))
			}
			if found == 0 {
				return fmt.Errorf("no Artifact in namespace %s says that %s is on the ledger", c.namespace, args[0])
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "verifier key of the ledger (default: the one that the operator has pinned)")
	return cmd
}

// exception is what a block says of a tag that its registry did not have there.
func exception(a *ledger.AddArtifact) string {
	if why := a.Exception(); why != "" {
		return ", " + why
	}
	return ""
}

func withdrawn(a *v1alpha1.Artifact) string {
	switch {
	case a.Spec.State == v1alpha1.StateRevoked:
		return "; since withdrawn: " + a.Spec.Reason
	case a.Status.Revocation != nil:
		return fmt.Sprintf("; since withdrawn by block %d", a.Status.Revocation.Height)
	}
	return ""
}

// check verifies the proof that an Artifact carries.
func (c *cluster) check(ctx context.Context, a *v1alpha1.Artifact, key string) (*ledger.VerifiedBlock, error) {
	if key == "" {
		publisher := new(v1alpha1.PyrsiaNode)
		if err := c.client.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.PublisherRef.Name}, publisher); err != nil {
			return nil, fmt.Errorf("reading its publisher's key: %w; give --key", err)
		}
		if publisher.Status.Ledger == nil {
			return nil, fmt.Errorf("its publisher %s has no verified ledger yet; give --key", publisher.Name)
		}
		key = cmp.Or(publisher.Status.Ledger.NewestKey, publisher.Status.Ledger.Key)
	}
	verifier, err := ledger.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	block, err := ledger.VerifyBlock(verifier, []byte(a.Status.Block.Entry), []byte(a.Status.Block.Proof))
	if errors.Is(err, ledger.ErrOtherKey) {
		block, err = c.proveAgain(ctx, verifier, a)
	}
	if err != nil {
		return nil, err
	}
	if block.Artifact == nil || block.Artifact.Artifact != a.Spec.Image || block.Artifact.Digest.String() != a.Spec.Digest {
		return nil, errors.New("the proof is good, but for another image")
	}
	return block, nil
}

// proveAgain has a node prove a block whose proof in the Artifact was made before
// the ledger's key was rotated.
func (c *cluster) proveAgain(ctx context.Context, verifier *ledger.Verifier, a *v1alpha1.Artifact) (*ledger.VerifiedBlock, error) {
	address, closed, err := c.reach(ctx)
	if err != nil {
		return nil, fmt.Errorf("the key was rotated since its proof was made, and a node is to make another: %w", err)
	}
	defer closed()
	b, err := cli.Block(ctx, address, a.Status.Block.Height)
	if err != nil {
		return nil, err
	}
	return ledger.VerifyBlock(verifier, []byte(b.Entry), []byte(b.Proof))
}

func (c *cluster) planCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "plan SET",
		Short: "List the images that an OfficialImageSet of the cluster selects now",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set := new(v1alpha1.OfficialImageSet)
			if err := c.client.Get(cmd.Context(), client.ObjectKey{Namespace: c.namespace, Name: args[0]}, set); err != nil {
				return fmt.Errorf("reading the OfficialImageSet: %w", err)
			}
			data, err := json.Marshal(map[string]any{"spec": set.Spec}) // which is YAML too
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "kubectl-pyrsia-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			file := filepath.Join(dir, "set.yaml")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				return err
			}
			argv := []string{"plan", "-f", file}
			if output != "" {
				argv = append(argv, "-o", output)
			}
			return runPyrsia(cmd, argv)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, or json for programs")
	return cmd
}
