package controllers

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=secrets,verbs=get;create

// seedSecret is the Secret in the operator's namespace that holds the seed.
const (
	seedSecret = "pyrsia-operator-seed"
	seedKey    = "seed"
)

// Seed is the one secret from which all keys of the control API are derived.
// The operator can so compute a node's keys at any time, and needs no right
// to read the Secrets that it writes for nodes in other namespaces.
type Seed [32]byte

// LoadSeed reads the operator's seed, and makes it when there is none. c must
// not be a caching client: that would need the right to list Secrets.
func LoadSeed(ctx context.Context, c client.Client, namespace string) (Seed, error) {
	secret := new(corev1.Secret)
	key := client.ObjectKey{Namespace: namespace, Name: seedSecret}
	err := c.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		var fresh Seed
		rand.Read(fresh[:])
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: seedSecret, Labels: map[string]string{labelManagedBy: fieldOwner}},
			Data:       map[string][]byte{seedKey: fresh[:]},
		}
		if err = c.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
			err = c.Get(ctx, key, secret) // another replica was faster: its seed counts
		}
	}
	if err != nil {
		return Seed{}, fmt.Errorf("loading the seed of the control keys from Secret %s: %w", key, err)
	}
	var seed Seed
	if n := copy(seed[:], secret.Data[seedKey]); n != len(seed) || len(secret.Data[seedKey]) != len(seed) {
		return Seed{}, fmt.Errorf("the Secret %s holds no seed of %d bytes under %q: delete it, and the operator makes another", key, len(seed), seedKey)
	}
	return seed, nil
}

func (s Seed) derive(info string) ed25519.PrivateKey {
	key, err := hkdf.Key(sha256.New, s[:], nil, info, ed25519.SeedSize)
	if err != nil {
		panic("hkdf: " + err.Error()) // only for outputs over 8160 bytes
	}
	return ed25519.NewKeyFromSeed(key)
}

func (s Seed) operatorKey() ed25519.PrivateKey { return s.derive("pyrsia.io/control/operator") }

// nodeKey is the same for all pods of a PyrsiaNode, and another one when it
// is made again under the same name.
func (s Seed) nodeKey(n *v1alpha1.PyrsiaNode) ed25519.PrivateKey {
	return s.derive(fmt.Sprintf("pyrsia.io/control/node/%s/%s/%s", n.Namespace, n.Name, n.UID))
}

// operatorKeys are the operator's half of the control API with a node.
func (s Seed) operatorKeys(n *v1alpha1.PyrsiaNode) control.Keys {
	return control.Keys{Own: s.operatorKey(), Peer: s.nodeKey(n).Public().(ed25519.PublicKey)}
}

// fingerprint changes with either half of the node's keys, so that its pods
// are replaced then.
func (s Seed) fingerprint(n *v1alpha1.PyrsiaNode) string {
	keys := s.operatorKeys(n)
	sum := sha256.Sum256(append(keys.Own.Public().(ed25519.PublicKey), keys.Peer...))
	return hex.EncodeToString(sum[:8])
}
