package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func (c *cluster) revokeCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke IMAGE@DIGEST|ARTIFACT --reason TEXT [--yes]",
		Short: "Withdraw an image: show what else has its digest, and with --yes do it",
		Long: `Withdraws a digest in an image's repository: the publisher records that and the
reason on the ledger, for good, and mirrors refuse the digest from then on, under
every tag. So the tags that have it are shown first, and the indexes of which it
is one platform: that platform of theirs is refused too. Without --yes nothing is
changed.

DIGEST is that of the image's index, or of one platform's manifest to withdraw that
alone; an Artifact names both. To withdraw takes the right to change Artifacts, or
to create one where the digest has none. What was pulled before stays on its
machine. Only the state Restored of an Artifact brings the image back, which takes
the right to restore.`,
		Example: `  kubectl pyrsia revoke alpine:3.20@sha256:... --reason 'contains malware'
  kubectl pyrsia revoke alpine-3.20-5b3e6f --reason 'contains malware' --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return errors.New("say by --reason why, in one line: it becomes part of the ledger")
			}
			art, err := c.artifact(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := c.showNaming(cmd.Context(), cmd.OutOrStdout(), art); err != nil {
				return err
			}
			if !yes {
				return errors.New("nothing is withdrawn yet: give --yes to do it")
			}
			return c.revoke(cmd.Context(), cmd.OutOrStdout(), art, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, in one line, which becomes part of the ledger")
	cmd.Flags().BoolVar(&yes, "yes", false, "withdraw it")
	return cmd
}

// artifact is the Artifact by which an image is withdrawn: the one that was named,
// else one of the image and digest, else a new one, which is not created yet.
func (c *cluster) artifact(ctx context.Context, arg string) (*v1alpha1.Artifact, error) {
	if !strings.Contains(arg, "@") {
		art := new(v1alpha1.Artifact)
		if err := c.client.Get(ctx, kube.ObjectKey{Namespace: c.namespace, Name: arg}, art); err != nil {
			return nil, fmt.Errorf("reading the Artifact: %w; give IMAGE@DIGEST, or the name of one", err)
		}
		if art.Spec.PublisherRef.Name == "" {
			return nil, fmt.Errorf("the Artifact %s only looks its image up: give %s@%s", arg, art.Spec.Image, art.Spec.Digest)
		}
		if !art.DeletionTimestamp.IsZero() {
			return nil, fmt.Errorf("the Artifact %s is being deleted: give %s@%s", arg, art.Spec.Image, art.Spec.Digest)
		}
		return art, nil
	}
	ref, err := ledger.ParseReference(arg)
	if err != nil {
		return nil, err
	}
	if !ref.Whole() {
		return nil, fmt.Errorf("%s has %d digits of its digest: withdrawn is what has all 64", arg, len(ref.Digits))
	}
	d := ref.Digest().String()
	var list v1alpha1.ArtifactList
	if err := c.client.List(ctx, &list, kube.InNamespace(c.namespace)); err != nil {
		return nil, fmt.Errorf("listing the Artifacts: %w", err)
	}
	for _, a := range list.Items {
		if ref.Means(a.Spec.Image) && a.Spec.Digest == d && a.Spec.PublisherRef.Name != "" && a.DeletionTimestamp.IsZero() {
			return &a, nil
		}
	}
	image, err := c.recorded(ctx, ref)
	if err != nil {
		return nil, err
	}
	publisher, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	if publisher.Spec.Role != v1alpha1.RolePublisher {
		return nil, fmt.Errorf("PyrsiaNode %s is no publisher: give the namespace of one by -n, or its name by --pyrsianode", publisher.Name)
	}
	art := &v1alpha1.Artifact{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, GenerateName: "revoke-"}}
	art.Spec.Image, art.Spec.Digest, art.Spec.PublisherRef.Name = image.String(), d, publisher.Name
	return art, nil
}

// recorded is the name under which a digest is withdrawn that has no Artifact: the
// one that the ledger records it under, if a name at a mirror may be two.
func (c *cluster) recorded(ctx context.Context, ref *ledger.Reference) (ledger.Image, error) {
	for i := range ref.Names {
		ref.Names[i].Tag = cmp.Or(ref.Names[i].Tag, "latest") // of any: it is withdrawn under all
	}
	if len(ref.Names) == 1 {
		return ref.Names[0], nil
	}
	blocks, err := c.naming(ctx, ref.Digest().String())
	if err != nil {
		return ledger.Image{}, err
	}
	for _, b := range blocks {
		a, err := ledger.ParseEntry([]byte(b.Entry))
		if err != nil {
			continue
		}
		for _, image := range ref.Names {
			if a.Repository() == image.Name() {
				return image, nil
			}
		}
	}
	return ledger.Image{}, fmt.Errorf("the ledger records no %s: name the image as 'kubectl pyrsia log %s' does", ref, ref.Digest())
}

// naming lists the newest blocks that name a digest.
func (c *cluster) naming(ctx context.Context, d string) ([]ledger.BlockJSON, error) {
	node, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	blocks, err := node.Blocks(ctx, client.Query{Digest: d})
	return blocks, explain(err)
}

// showNaming shows what a withdrawal concerns.
func (c *cluster) showNaming(ctx context.Context, w io.Writer, art *v1alpha1.Artifact) error {
	image, err := ledger.ParseImage(art.Spec.Image)
	if err != nil {
		return err
	}
	blocks, err := c.naming(ctx, art.Spec.Digest)
	if err != nil {
		return err
	}
	tags, indexes := map[string]bool{}, map[string]bool{}
	for _, b := range blocks {
		a, err := ledger.ParseEntry([]byte(b.Entry))
		switch {
		case err != nil || a.Repository() != image.Name():
		case a.Digest.String() == art.Spec.Digest:
			tags[a.Name()] = true
		case slices.ContainsFunc(a.Platforms, func(p ledger.Platform) bool { return p.Digest.String() == art.Spec.Digest }):
			indexes[a.Name()+"@"+a.Digest.String()] = true
		}
	}
	fmt.Fprintf(w, "%s@%s\n", image.Name(), art.Spec.Digest)
	show(w, "tags of which the ledger records it", tags)
	show(w, "indexes of which it is a platform", indexes)
	if len(blocks) >= ledger.MaxArtifacts {
		fmt.Fprintf(w, "  and perhaps more: these are its newest %d blocks\n", len(blocks))
	}
	return nil
}

func show(w io.Writer, what string, names map[string]bool) {
	if len(names) == 0 {
		fmt.Fprintf(w, "  %s: none\n", what)
		return
	}
	fmt.Fprintf(w, "  %s:\n", what)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(w, "    %s\n", name)
	}
}

// revoke gives an Artifact the state Revoked.
func (c *cluster) revoke(ctx context.Context, w io.Writer, art *v1alpha1.Artifact, reason string) error {
	if art.Spec.State == v1alpha1.StateRevoked {
		return fmt.Errorf("the Artifact %s is revoked already: %s", art.Name, art.Spec.Reason)
	}
	before := art.DeepCopy()
	art.Spec.State, art.Spec.Reason = v1alpha1.StateRevoked, reason
	var err error
	if art.Name == "" {
		err = c.client.Create(ctx, art)
	} else {
		err = c.client.Patch(ctx, art, kube.MergeFrom(before))
	}
	if err != nil {
		return fmt.Errorf("revoking the Artifact: %w", err)
	}
	fmt.Fprintf(w, "Artifact %s is to be revoked; it is on the ledger when this returns:\n  kubectl -n %s wait --for=condition=Revoked pa/%[1]s\n", art.Name, art.Namespace)
	return nil
}
