package nodeclient

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// Seed is a secret from which keys of the control API are derived. The operator
// can so compute a node's keys at any time, and needs no right to read the
// Secrets that it writes for nodes in other namespaces.
type Seed [32]byte

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
