package controllers

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The keys of the Secrets, and the names of the files that the node reads.
const (
	nodeKeyFile     = "node.key"
	operatorKeyFile = "operator.pub"
	signingKeyFile  = "signing.key"
)

// keysEvery is how often the Secrets are applied again while pods do not get
// ready: somebody may have deleted them, and the operator cannot look.
const keysEvery = 10 * time.Minute

// keys puts the node's Secrets in place. The operator may not read Secrets, so
// it writes them when a workload is made or changed, or fails to get ready.
func (r *PyrsiaNodeReconciler) keys(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	done := "The node's Secrets are in place; control keys " + r.Seed.fingerprint(n)
	if !r.keysDue(n, done) {
		setDone(n, v1alpha1.ConditionKeysReady, "Applied", done)
		return 0, nil
	}
	secret, err := controlSecret(n, r.Seed)
	if err != nil {
		return 0, err
	}
	if err := r.applier.apply(ctx, secret); err != nil {
		setFailed(n, v1alpha1.ConditionKeysReady, "SecretNotWritten", "the Secret "+controlSecretName(n)+" cannot be written: "+apiReason(err))
		return 0, fmt.Errorf("applying Secret %s: %w", controlSecretName(n), err)
	}
	if err := r.makeSigningKey(ctx, n); err != nil {
		setFailed(n, v1alpha1.ConditionKeysReady, "SecretNotWritten", "the Secret "+signingSecretName(n)+" cannot be written: "+apiReason(err))
		return 0, err
	}
	r.keysApplied.Store(n.UID, r.Now())
	setDone(n, v1alpha1.ConditionKeysReady, "Applied", done)
	return 0, nil
}

// keysDue tells whether the Secrets are to be written; done is the message of
// the condition if these very keys were written before.
func (r *PyrsiaNodeReconciler) keysDue(n *v1alpha1.PyrsiaNode, done string) bool {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionKeysReady)
	if c == nil || c.Status != metav1.ConditionTrue || c.Message != done {
		return true
	}
	if isTrue(n, v1alpha1.ConditionWorkloadReady) {
		return false
	}
	last, ok := r.keysApplied.Load(n.UID)
	return !ok || r.Now().Sub(last.(time.Time)) >= keysEvery
}

// controlSecret holds the node's half of the control API.
func controlSecret(n *v1alpha1.PyrsiaNode, seed Seed) (*coreac.SecretApplyConfiguration, error) {
	own, err := control.MarshalPrivateKey(seed.nodeKey(n))
	if err != nil {
		return nil, err
	}
	operator, err := control.MarshalPublicKey(seed.operatorKey().Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return coreac.Secret(controlSecretName(n), n.Namespace).
		WithLabels(labels(n, component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithType(corev1.SecretTypeOpaque).
		WithData(map[string][]byte{nodeKeyFile: own, operatorKeyFile: operator}), nil
}

// makeSigningKey creates the ledger's signing key, unless the user named one,
// or the ledger has a key already: a second key would be a second ledger. The
// Secret has no owner, so that it outlives the PyrsiaNode.
func (r *PyrsiaNodeReconciler) makeSigningKey(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	if n.Spec.Role != v1alpha1.RolePublisher || n.Status.Ledger != nil ||
		n.Spec.Publisher != nil && n.Spec.Publisher.SigningKeySecretRef != nil {
		return nil
	}
	skey, _, err := ledger.GenerateKey(fmt.Sprintf("pyrsia.io/%s/%s/%.8s", n.Namespace, n.Name, n.UID))
	if err != nil {
		return err
	}
	err = r.Client.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: signingSecretName(n), Labels: labels(n, component(n))},
		Data:       map[string][]byte{signingKeyFile: []byte(skey + "\n")},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Secret %s: %w", signingSecretName(n), err)
	}
	return nil
}

// apiReason is what a condition tells of an API server's refusal: its message
// may differ each time.
func apiReason(err error) string {
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return string(reason)
	}
	return "the API server did not answer"
}
