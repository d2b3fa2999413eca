package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The keys of the Secrets, and the names of the files that the node reads.
const (
	nodeKeyFile     = "node.key"
	operatorKeyFile = "operator.pub"
	signingKeyFile  = "signing.key"
)

// keysEvery is how often the Secrets are applied again while pods do not get
// ready or do not answer, unless Config.KeysEvery says otherwise: somebody may
// have changed them, and the operator cannot look.
const keysEvery = time.Minute

// keys puts the node's Secrets in place. The operator may not read Secrets, so
// it writes them when they are new, and when pods do not get ready or answer.
func (r *PyrsiaNodeReconciler) keys(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	seeds := r.Keys.Seeds()
	done := "The node's Secrets are in place; control keys " + seeds.fingerprint()
	if n.Spec.Role == v1alpha1.RolePublisher {
		current, next := keyGenerations(n)
		n.Status.KeyGeneration = current
		if next != 0 {
			done += fmt.Sprintf(", signing key %d", next)
		}
	}
	if !r.keysDue(n, done) {
		setDone(n, v1alpha1.ConditionKeysReady, "Applied", done)
		return 0, nil
	}
	own, operator, err := seeds.nodeFiles(n)
	if err != nil {
		return 0, err
	}
	secret := controlSecret(n, own, operator)
	err = r.applier.applySecret(ctx, n, secret)
	if foreign, ok := errors.AsType[*foreignObjectError](err); ok {
		setFailed(n, v1alpha1.ConditionKeysReady, "NameConflict", foreign.Error())
		return time.Minute, nil
	}
	if err != nil {
		setFailed(n, v1alpha1.ConditionKeysReady, "SecretNotWritten", "the Secret "+controlSecretName(n)+" cannot be written: "+apiReason(err))
		return 0, fmt.Errorf("applying Secret %s: %w", controlSecretName(n), err)
	}
	if err := r.makeSigningKey(ctx, n); err != nil {
		setFailed(n, v1alpha1.ConditionKeysReady, "SecretNotWritten", "the Secret of the signing key cannot be written: "+apiReason(err))
		return 0, err
	}
	r.noteKeys(n)
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
	due, ok := r.keysAgain(n)
	return ok && !r.Now().Before(due)
}

// keysAgain is when the Secrets are to be written again; not while the pods are
// ready and answer, for then they have the right ones.
func (r *PyrsiaNodeReconciler) keysAgain(n *v1alpha1.PyrsiaNode) (due time.Time, ok bool) {
	reached := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionLedgerVerified)
	if isTrue(n, v1alpha1.ConditionWorkloadReady) && (reached == nil || reached.Reason != reasonUnreachable) {
		return time.Time{}, false
	}
	last, _ := r.keysApplied.Load(client.ObjectKeyFromObject(n))
	written, _ := last.(keysWritten)
	if written.uid != n.UID {
		written.at = time.Time{} // not by this process
	}
	return written.at.Add(r.KeysEvery), true
}

// keysWritten is when the Secrets of a PyrsiaNode were written.
type keysWritten struct {
	uid types.UID
	at  time.Time
}

func (r *PyrsiaNodeReconciler) noteKeys(n *v1alpha1.PyrsiaNode) {
	r.keysApplied.Store(client.ObjectKeyFromObject(n), keysWritten{n.UID, r.Now()})
}

// awaitKeys asks to be called again when the Secrets are due to be written
// again. It comes after the steps that find out whether the pods are ready and
// answer, because that is what it depends on.
func (r *PyrsiaNodeReconciler) awaitKeys(_ context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if n.Status.Nodes == nil {
		return 0, nil // no pod needs them yet
	}
	due, ok := r.keysAgain(n)
	if !ok {
		return 0, nil
	}
	return max(due.Sub(r.Now()), pollBusy), nil // what is overdue is not written in this pass any more
}

// controlSecret holds the node's half of the control API: its own key and the
// operator's.
func controlSecret(n *v1alpha1.PyrsiaNode, own, operator []byte) *coreac.SecretApplyConfiguration {
	return coreac.Secret(controlSecretName(n), n.Namespace).
		WithLabels(labels(n, component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithType(corev1.SecretTypeOpaque).
		WithData(map[string][]byte{nodeKeyFile: own, operatorKeyFile: operator})
}

// keyGenerations are that of the key which signs the ledger, and while it is
// rotated that of the next one, else 0.
func keyGenerations(n *v1alpha1.PyrsiaNode) (current, next int32) {
	wanted := int32(1)
	if n.Spec.Publisher != nil {
		wanted = max(wanted, n.Spec.Publisher.KeyGeneration)
	}
	current = n.Status.KeyGeneration
	switch {
	case n.Status.Ledger == nil:
		return wanted, 0 // its key is the first that is seen, whichever it is
	case current == 0:
		current = 1 // of an operator that rotated nothing
	}
	if wanted > current {
		return current, current + 1
	}
	return current, 0
}

// makeSigningKey creates the ledger's signing key, unless the user has, or the
// ledger has a key already: a second key would be a second ledger; and the next
// key, when it is to be rotated. The Secrets have no owner, so that they outlive
// the PyrsiaNode.
func (r *PyrsiaNodeReconciler) makeSigningKey(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	current, next := keyGenerations(n)
	generation, origin := next, ""
	if n.Status.Ledger == nil {
		generation, origin = current, fmt.Sprintf("pyrsia.io/%s/%s/%.8s", n.Namespace, n.Name, n.UID)
		if generation == 1 && n.Spec.Publisher != nil && n.Spec.Publisher.SigningKeySecretRef != nil {
			return nil
		}
	}
	if n.Spec.Role != v1alpha1.RolePublisher || generation == 0 {
		return nil
	}
	if origin == "" {
		v, err := ledger.NewVerifier(n.Status.Ledger.Key)
		if err != nil {
			return err
		}
		origin = v.Origin()
	}
	skey, _, err := ledger.GenerateKey(origin)
	if err != nil {
		return err
	}
	name := signingSecretName(n, generation)
	err = r.Client.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: name, Labels: labels(n, component(n))},
		Data:       map[string][]byte{signingKeyFile: []byte(skey + "\n")},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Secret %s: %w", name, err)
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
