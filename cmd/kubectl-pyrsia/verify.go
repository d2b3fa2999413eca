package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/report"
)

func (c *cluster) verifyCommand() *cobra.Command {
	var key string
	var everywhere bool
	cmd := &cobra.Command{
		Use:   "verify IMAGE[@DIGEST]|DIGEST",
		Short: "Check on this machine that an image is on the ledger, by the proofs of the Artifacts",
		Long: `Checks the proof of each Artifact of the image, of all its digests or of the one
that is given: of its index, of a platform's manifest, or its image ID. IMAGE is a
name in any way in which clients show it, also the one at a mirror. The key is
the one that the operator has pinned; --key is one that you know from elsewhere,
and then nothing in the cluster is trusted. Where the key was rotated since an
Artifact was published, a node proves it again. Exits with 2 if one of them was
withdrawn since.`,
		Args: cobra.ExactArgs(1),
	}
	o := newOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := ledger.ParseReference(args[0])
		if err != nil {
			return err
		}
		if ref.Digits != "" && !ref.Whole() {
			return errors.New("a proof is checked for all digits of a digest: give IMAGE@sha256:DIGITS with all 64, or IMAGE alone")
		}
		namespace, where := c.namespace, "namespace "+c.namespace
		if everywhere {
			namespace, where = "", "any namespace"
		}
		found, err := c.verified(cmd.Context(), ref, namespace, key)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no Artifact in %s says that %s is on the ledger", where, args[0])
		}
		if err := o.print(cmd.OutOrStdout(), found, func(wide bool) error { return printVerified(cmd.OutOrStdout(), found, wide || everywhere) }); err != nil {
			return err
		}
		if i := slices.IndexFunc(found, func(v verified) bool { return v.Withdrawn }); i >= 0 {
			return &exitError{exitFound, fmt.Sprintf("%s@%s is on the ledger, and withdrawn", found[i].Image, found[i].Digest)}
		}
		return nil
	}
	cmd.Flags().StringVar(&key, "key", "", "verifier key of the ledger (default: the one that the operator has pinned)")
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "check the Artifacts of all namespaces")
	return cmd
}

// verified is an Artifact of which the proof is good.
type verified struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"` // of the Artifact
	Image     string    `json:"image"`
	Digest    string    `json:"digest"`
	Block     int64     `json:"block"`
	Ledger    string    `json:"ledger"`
	Recorded  time.Time `json:"recorded"`
	// Note is what no registry said, and what was withdrawn since.
	Note      string `json:"note,omitempty"`
	Withdrawn bool   `json:"withdrawn,omitempty"`

	line string // for people
}

// verified checks the proofs of the Artifacts of what a person means, in a namespace
// or in all. One proof that is not good is an error.
func (c *cluster) verified(ctx context.Context, ref *ledger.Reference, namespace, key string) (found []verified, err error) {
	var list v1alpha1.ArtifactList
	if err := c.client.List(ctx, &list, kube.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing the Artifacts: %w", err)
	}
	for _, a := range list.Items {
		if a.Status.Block == nil || ref.Named() && !ref.Means(a.Spec.Image) {
			continue
		}
		if entry, err := ledger.ParseEntry([]byte(a.Status.Block.Entry)); err == nil && ref.Digits != "" && !entry.Names(ref.Digest()) {
			continue
		}
		block, err := c.check(ctx, &a, key)
		if err != nil {
			return nil, fmt.Errorf("verifying Artifact %s: %w", a.Name, err)
		}
		if ref.Digits != "" && !block.Artifact.Names(ref.Digest()) {
			continue
		}
		gone := withdrawn(&a)
		found = append(found, verified{
			Namespace: a.Namespace, Name: a.Name, Image: block.Artifact.Name(), Digest: block.Artifact.Digest.String(), Block: block.Height,
			Ledger: block.Checkpoint.Origin, Recorded: block.Artifact.Time, Note: strings.TrimPrefix(strings.TrimPrefix(block.Artifact.Exception()+gone, "; "), ", "),
			Withdrawn: gone != "", line: report.Verified(block, block.Artifact.Digest) + gone,
		})
	}
	return found, nil
}

// printVerified tells of each Artifact that it is verified, and if wide which it is.
func printVerified(w io.Writer, found []verified, wide bool) error {
	for _, v := range found {
		which := ""
		if wide {
			which = " (Artifact " + v.Namespace + "/" + v.Name + ")"
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", v.line, which); err != nil {
			return err
		}
	}
	return nil
}

// withdrawn says that what an Artifact is of was withdrawn since.
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
		node := new(v1alpha1.PyrsiaNode)
		name := cmp.Or(a.Spec.PublisherRef.Name, a.Spec.NodeRef.Name) // of what was pulled, the node has looked it up
		if err := c.client.Get(ctx, kube.ObjectKey{Namespace: a.Namespace, Name: name}, node); err != nil {
			return nil, fmt.Errorf("reading the key of its node: %w; give --key", err)
		}
		if node.Status.Ledger == nil {
			return nil, fmt.Errorf("its node %s has no verified ledger yet; give --key", node.Name)
		}
		key = cmp.Or(node.Status.Ledger.NewestKey, node.Status.Ledger.Key)
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
	node, err := c.reach(ctx)
	if err != nil {
		return nil, fmt.Errorf("the key was rotated since its proof was made, and a node is to make another: %w", err)
	}
	b, err := node.Block(ctx, a.Status.Block.Height)
	if err != nil {
		return nil, explain(err)
	}
	return ledger.VerifyBlock(verifier, []byte(b.Entry), []byte(b.Proof))
}
