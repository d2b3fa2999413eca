package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// proveOffline takes a proof out of the cluster and checks it with nothing but
// the publisher's public key.
func proveOffline(ctx context.Context, w *Env) error {
	a, err := w.newest(ctx)
	if err != nil {
		return err
	}
	if err := w.Show(ctx, "kubectl", "get", "artifact", a.Name, "-o", "jsonpath={.status.block.entry}{\"\\n\\n\"}{.status.block.proof}"); err != nil {
		return err
	}
	var publisher v1alpha1.PyrsiaNode
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.PublisherRef.Name}, &publisher); err != nil {
		return err
	}
	if publisher.Status.Ledger == nil {
		return fmt.Errorf("publisher %s has no ledger in its status", publisher.Name)
	}
	key, block := publisher.Status.Ledger.Key, a.Status.Block
	if err := verify(key, block.Entry, block.Proof); err != nil {
		return fmt.Errorf("the proof of %s: %w", a.Name, err)
	}
	if !strings.Contains(block.Entry, a.Spec.Digest) {
		return fmt.Errorf("the entry of %s does not hold its digest", a.Name)
	}
	forged := strings.Replace(block.Entry, a.Spec.Digest, "sha256:"+strings.Repeat("0", 64), 1)
	if verify(key, forged, block.Proof) == nil {
		return errors.New("a forged entry passes the check")
	}
	fmt.Fprintf(w.Out, "Entry and proof verify under the key %s; with another digest in the entry they do not.\n", key)
	return nil
}

// newest finds the Artifact with the highest block: its proof is the longest.
func (w *Env) newest(ctx context.Context) (*v1alpha1.Artifact, error) {
	var list v1alpha1.ArtifactList
	if err := w.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	var newest *v1alpha1.Artifact
	for i, a := range list.Items {
		if a.Status.Block != nil && (newest == nil || a.Status.Block.Height > newest.Status.Block.Height) {
			newest = &list.Items[i]
		}
	}
	if newest == nil {
		return nil, errors.New("no Artifact is on the ledger")
	}
	return newest, nil
}

// verify is all that a reader of the ledger needs: no code of this project.
func verify(key, entry, proof string) error {
	v, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.SingleVerifierPolicy(v), torchwood.OriginPolicy(v.Name()))
	return torchwood.VerifyProof(policy, tlog.RecordHash([]byte(entry)), []byte(proof))
}
