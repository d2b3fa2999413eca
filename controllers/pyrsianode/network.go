package pyrsianode

import (
	"cmp"
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// network finds out which ledger a mirror is to trust and where its first
// peers are: from the publisher's status, or from the spec. A publisher's
// network is its own. Either may be open to the outside.
func (r *Reconciler) network(ctx context.Context, in *work) (time.Duration, error) {
	n := in.PyrsiaNode
	if !status.IsTrue(n, v1alpha1.ConditionKeysReady) {
		return 0, nil
	}
	if n.Spec.Role == v1alpha1.RolePublisher {
		return 0, r.publisherNetwork(ctx, n, &in.Inputs)
	}
	if err := r.expose(ctx, n, &in.Inputs); err != nil {
		return 0, err
	}
	in.LedgerKey, in.Bootstrap = n.Spec.Network.LedgerKey, n.Spec.Network.Bootstrap
	if ref := n.Spec.Network.PublisherRef; ref != nil {
		if err := r.askPublisher(ctx, n, ref.Name, &in.Inputs); err != nil || in.LedgerKey == "" {
			return 0, err
		}
	}
	return 0, keepLedger(n, &in.Inputs)
}

// AskPublisher takes the ledger key of a publisher in the same namespace, once it
// is known.
func (r *Reconciler) askPublisher(ctx context.Context, n *v1alpha1.PyrsiaNode, name string, in *desired.Inputs) error {
	const condition = v1alpha1.ConditionNetworkReady
	publisher := new(v1alpha1.PyrsiaNode)
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, publisher)
	switch {
	case apierrors.IsNotFound(err):
		status.SetWaiting(n, condition, v1alpha1.ReasonPublisherNotFound, fmt.Sprintf("there is no PyrsiaNode %q in this namespace: create it, or correct spec.network.publisherRef", name))
		return nil // a watch tells when it is there
	case err != nil:
		return fmt.Errorf("reading the publisher %s: %w", name, err)
	case publisher.Spec.Role != v1alpha1.RolePublisher:
		message := fmt.Sprintf("the PyrsiaNode %q is a mirror: name a publisher in spec.network.publisherRef", name)
		status.SetFailed(n, condition, v1alpha1.ReasonInvalidPublisherRef, message)
		return reconcile.TerminalError(fmt.Errorf("%s", message))
	case publisher.Status.Ledger == nil:
		status.SetWaiting(n, condition, v1alpha1.ReasonPublisherNotReady, fmt.Sprintf("waiting for the publisher %q to tell its ledger key", name))
		return nil
	}
	// Its name, not its identity: that goes with its disk.
	in.LedgerKey, in.Bootstrap = nodeclient.NewestKey(publisher.Status.Ledger), []string{desired.OpenURL(n.Namespace, name)}
	return nil
}

// keepLedger lets a mirror have the ledger whose key is in the inputs, unless it has
// verified another one: pods with that on their disks would not start. Keys of one
// ledger have the same origin. Of those, pods are started with the newest that the
// publisher or they themselves have verified, although the previous key still signs:
// a pod on a new Kubernetes node remembers no hand-over, and would believe anyone
// else who has the previous key.
func keepLedger(n *v1alpha1.PyrsiaNode, in *desired.Inputs) error {
	const condition = v1alpha1.ConditionNetworkReady
	wanted, err := ledger.NewVerifier(in.LedgerKey)
	if err != nil {
		status.SetFailed(n, condition, v1alpha1.ReasonInvalidLedgerKey, err.Error())
		return reconcile.TerminalError(err)
	}
	has := verifiedKey(n)
	if has == "" && n.Status.Ledger != nil && n.Status.Ledger.Key != in.LedgerKey {
		n.Status.Ledger = nil // whichever it was to be, nothing is on any disk
	}
	if v, err := ledger.NewVerifier(has); err == nil && v.Origin() != wanted.Origin() {
		in.LedgerKey = has
		status.SetFailed(n, condition, v1alpha1.ReasonLedgerReplaced, fmt.Sprintf("the mirror goes on with the ledger %s, which it has verified, but is to follow another one now, %s: if a publisher has lost its signing key, put it back; for another ledger make another PyrsiaNode", v.Origin(), wanted.Origin()))
		return nil
	}
	if has != "" && has != in.LedgerKey && n.Spec.Network.PublisherRef != nil && status.IsTrue(n, v1alpha1.ConditionLedgerKeyMisused) {
		// Its pods may have heard of two keys, and follow neither: the publisher
		// itself says which is its own. What they verify next is verified anew.
		n.Status.Ledger = &v1alpha1.LedgerStatus{Key: in.LedgerKey}
	}
	if l := n.Status.Ledger; has == in.LedgerKey && n.Spec.Network.PublisherRef != nil {
		in.LedgerKey = cmp.Or(l.NewestKey, has) // which all pods have verified
	}
	status.SetDone(n, condition, v1alpha1.ReasonKnown, "The ledger key and the first peers are known")
	return nil
}

// verifiedKey is the key of the ledger that a mirror's pods have on their disks;
// empty if they have none yet.
func verifiedKey(n *v1alpha1.PyrsiaNode) string {
	if n.Status.Ledger == nil || n.Status.Ledger.Checkpoint == "" {
		return ""
	}
	return n.Status.Ledger.Key
}

// pinnedKey is the key that the pods' ledgers are judged by: what was verified
// last, which may have followed on what the user gave.
func pinnedKey(n *v1alpha1.PyrsiaNode, in desired.Inputs) string {
	if n.Status.Ledger != nil {
		return n.Status.Ledger.Key
	}
	return in.LedgerKey
}
