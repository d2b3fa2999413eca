package pyrsianode

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/apply"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// keysEvery is how often the Secrets are applied again while pods do not get
// ready or do not answer, unless Config.KeysEvery says otherwise: somebody may
// have changed them, and the operator cannot look.
const keysEvery = time.Minute

// keys puts the node's Secrets in place. The operator may not read Secrets, so
// it writes them when they are new, and when pods do not get ready or answer.
func (r *Reconciler) keys(ctx context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	seeds := r.Keys.Seeds()
	done := "The node's Secrets are in place; control keys " + seeds.Fingerprint()
	if n.Spec.Role == v1alpha1.RolePublisher {
		current, next := desired.KeyGenerations(n)
		n.Status.KeyGeneration = current
		if next != 0 {
			done += fmt.Sprintf(", signing key %d", next)
		}
	}
	if !r.keysDue(n, done) {
		status.SetDone(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonApplied, done)
		return 0, nil
	}
	own, operator, err := seeds.NodeFiles(n)
	if err != nil {
		return 0, err
	}
	secret := desired.ControlSecret(n, own, operator)
	err = r.applier.ApplySecret(ctx, n, secret)
	if foreign, ok := errors.AsType[*apply.ForeignError](err); ok {
		status.SetFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonNameConflict, foreign.Error())
		return time.Minute, nil
	}
	if err != nil {
		status.SetFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonSecretNotWritten, "the Secret "+desired.ControlSecretName(n)+" cannot be written: "+apiReason(err))
		return 0, fmt.Errorf("applying Secret %s: %w", desired.ControlSecretName(n), err)
	}
	if err := r.makeSigningKey(ctx, n); err != nil {
		status.SetFailed(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonSecretNotWritten, "the Secret of the signing key cannot be written: "+apiReason(err))
		return 0, err
	}
	r.noteKeys(n)
	status.SetDone(n, v1alpha1.ConditionKeysReady, v1alpha1.ReasonApplied, done)
	return 0, nil
}

// keysDue tells whether the Secrets are to be written; done is the message of
// the condition if these very keys were written before.
func (r *Reconciler) keysDue(n *v1alpha1.PyrsiaNode, done string) bool {
	c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionKeysReady)
	if c == nil || c.Status != metav1.ConditionTrue || c.Message != done {
		return true
	}
	due, ok := r.keysAgain(n)
	return ok && !r.Now().Before(due)
}

// keysAgain is when the Secrets are to be written again; not while the pods are
// ready and answer, because then they have the right ones.
func (r *Reconciler) keysAgain(n *v1alpha1.PyrsiaNode) (due time.Time, ok bool) {
	reached := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionLedgerVerified)
	if status.IsTrue(n, v1alpha1.ConditionWorkloadReady) && (reached == nil || reached.Reason != v1alpha1.ReasonNodeUnreachable) {
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

func (r *Reconciler) noteKeys(n *v1alpha1.PyrsiaNode) {
	r.keysApplied.Store(client.ObjectKeyFromObject(n), keysWritten{n.UID, r.Now()})
}

// awaitKeys asks to be called again when the Secrets are due to be written
// again. It comes after the steps that find out whether the pods are ready and
// answer, because that is what it depends on.
func (r *Reconciler) awaitKeys(_ context.Context, n *v1alpha1.PyrsiaNode) (time.Duration, error) {
	if n.Status.Nodes == nil {
		return 0, nil // no pod needs them yet
	}
	due, ok := r.keysAgain(n)
	if !ok {
		return 0, nil
	}
	return max(due.Sub(r.Now()), pollBusy), nil // what is overdue is not written in this pass any more
}

// makeSigningKey creates the ledger's signing key, unless the user has, or the
// ledger has a key already: a second key would be a second ledger; and the next
// key, when it is to be rotated.
func (r *Reconciler) makeSigningKey(ctx context.Context, n *v1alpha1.PyrsiaNode) error {
	current, next := desired.KeyGenerations(n)
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
	secret := desired.SigningSecret(n, generation, skey)
	if err := r.Client.Create(ctx, secret); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Secret %s: %w", secret.Name, err)
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
