package desired

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// The keys of the Secrets, and the names of the files that the node reads.
const (
	NodeKeyFile     = "node.key"
	OperatorKeyFile = "operator.pub"
	SigningKeyFile  = "signing.key"
)

// ControlSecret holds the node's half of the control API: its own key and the
// operator's.
func ControlSecret(n *v1alpha1.PyrsiaNode, own, operator []byte) *coreac.SecretApplyConfiguration {
	return coreac.Secret(ControlSecretName(n), n.Namespace).
		WithLabels(objects.Labels(n, objects.Component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithType(corev1.SecretTypeOpaque).
		WithData(map[string][]byte{NodeKeyFile: own, OperatorKeyFile: operator})
}

// SigningSecret holds a key that signs the ledger. It has no owner, so that it outlives
// the PyrsiaNode.
func SigningSecret(n *v1alpha1.PyrsiaNode, generation int32, skey string) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: SigningSecretName(n, generation), Labels: objects.Labels(n, objects.Component(n))},
		Data:       map[string][]byte{SigningKeyFile: []byte(skey + "\n")},
	}
}

// KeyGenerations are that of the key which signs the ledger, and while it is
// rotated that of the next one, else 0.
func KeyGenerations(n *v1alpha1.PyrsiaNode) (current, next int32) {
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
