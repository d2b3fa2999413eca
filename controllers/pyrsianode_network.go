package controllers

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// network finds out which ledger a mirror is to trust and where its first
// peers are: from the publisher's status, or from the spec. A publisher's
// network is its own. Either may be open to the outside.
func (r *PyrsiaNodeReconciler) network(in *podInputs) step[*v1alpha1.PyrsiaNode] {
	return func(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
		if !isTrue(n, v1alpha1.ConditionKeysReady) {
			return 0, nil
		}
		if n.Spec.Role == v1alpha1.RolePublisher {
			return 0, r.publisherNetwork(ctx, n, in)
		}
		if err := r.expose(ctx, n, in); err != nil {
			return 0, err
		}
		network := n.Spec.Network
		in.ledgerKey, in.bootstrap = network.LedgerKey, network.Bootstrap
		if network.PublisherRef != nil {
			publisher := new(v1alpha1.PyrsiaNode)
			name := network.PublisherRef.Name
			err := r.Client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, publisher)
			switch {
			case apierrors.IsNotFound(err):
				setWaiting(n, v1alpha1.ConditionNetworkReady, "PublisherNotFound", fmt.Sprintf("there is no PyrsiaNode %q in this namespace: create it, or correct spec.network.publisherRef", name))
				return 0, nil // a watch tells when it is there
			case err != nil:
				return 0, fmt.Errorf("reading the publisher %s: %w", name, err)
			case publisher.Spec.Role != v1alpha1.RolePublisher:
				message := fmt.Sprintf("the PyrsiaNode %q is a mirror: name a publisher in spec.network.publisherRef", name)
				setFailed(n, v1alpha1.ConditionNetworkReady, "InvalidPublisherRef", message)
				return 0, reconcile.TerminalError(fmt.Errorf("%s", message))
			case publisher.Status.Ledger == nil:
				setWaiting(n, v1alpha1.ConditionNetworkReady, "PublisherNotReady", fmt.Sprintf("waiting for the publisher %q to tell its ledger key", name))
				return 0, nil
			}
			// Its name, not its identity: that goes with its disk.
			in.ledgerKey, in.bootstrap = publisher.Status.Ledger.Key, []string{openURL(n.Namespace, name)}
		}
		if _, err := ledger.NewVerifier(in.ledgerKey); err != nil {
			setFailed(n, v1alpha1.ConditionNetworkReady, "InvalidLedgerKey", err.Error())
			return 0, reconcile.TerminalError(err)
		}
		setDone(n, v1alpha1.ConditionNetworkReady, "Known", "The ledger key and the first peers are known")
		return 0, nil
	}
}
