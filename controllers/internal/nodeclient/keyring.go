package nodeclient

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=secrets,resourceNames=pyrsia-operator-seed,verbs=get;update

// The Secret in the operator's namespace that holds the seeds.
const (
	seedSecret  = "pyrsia-operator-seed"
	seedKey     = "seed"     // the one in use
	previousKey = "previous" // the one before
	nextKey     = "next"     // the one after, which nodes trust already
	rotatedKey  = "rotated"  // when the one in use came into use, RFC 3339
)

// seedReload is how often the Secret is read, because another replica may have
// rotated the seeds.
const seedReload = time.Minute

// Keyring holds the seeds of the control keys and rotates them. Nodes and the
// operator trust each other's keys of the previous, the current and the next
// seed. So it does not matter which side learns of a rotation first, and no
// request fails; a stolen key can be used for two lifetimes.
type Keyring struct {
	client    client.Client
	namespace string
	lifetime  time.Duration
	Now       func() time.Time
	leading   <-chan struct{} // closed when this replica may write; nil never
	seeds     atomic.Pointer[Seeds]
}

// Seeds are one state of the Secret.
type Seeds struct {
	previous, current, next *Seed // previous is nil before the first rotation
	rotated                 time.Time
}

// LoadKeyring reads the operator's seeds, and makes them when there are none. c
// must not be a caching client: that would need the right to list Secrets. The
// seeds are rotated when they are older than lifetime.
func LoadKeyring(ctx context.Context, c client.Client, namespace string, lifetime time.Duration) (*Keyring, error) {
	k := &Keyring{client: c, namespace: namespace, lifetime: lifetime, Now: time.Now}
	secret, err := k.read(ctx)
	if apierrors.IsNotFound(err) {
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: seedSecret, Labels: map[string]string{objects.LabelManagedBy: objects.FieldOwner}}}
		k.fill(secret)
		if err = c.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
			secret, err = k.read(ctx) // another replica was faster: its seeds count
		}
	}
	if err == nil && len(secret.Data) == 0 { // as the installation brings it
		k.fill(secret)
		if err = c.Update(ctx, secret); apierrors.IsConflict(err) {
			secret, err = k.read(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	return k, k.use(secret)
}

func (k *Keyring) read(ctx context.Context) (*corev1.Secret, error) {
	secret := new(corev1.Secret)
	err := k.client.Get(ctx, client.ObjectKey{Namespace: k.namespace, Name: seedSecret}, secret)
	return secret, objects.Wrap(err, "loading the seeds of the control keys from Secret %s/%s", k.namespace, seedSecret)
}

// fill adds the seeds that are missing.
func (k *Keyring) fill(secret *corev1.Secret) (changed bool) {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	for _, name := range []string{seedKey, nextKey} {
		if len(secret.Data[name]) == 0 {
			secret.Data[name], changed = newSeed(), true
		}
	}
	if len(secret.Data[rotatedKey]) == 0 {
		secret.Data[rotatedKey], changed = []byte(k.Now().UTC().Format(time.RFC3339)), true
	}
	return changed
}

func newSeed() []byte {
	out := make([]byte, len(Seed{}))
	rand.Read(out)
	return out
}

// use makes what is in the Secret the seeds.
func (k *Keyring) use(secret *corev1.Secret) error {
	var s Seeds
	for name, to := range map[string]**Seed{previousKey: &s.previous, seedKey: &s.current, nextKey: &s.next} {
		data := secret.Data[name]
		if len(data) == 0 && name != seedKey {
			continue
		}
		if len(data) != len(Seed{}) {
			return fmt.Errorf("the Secret %s/%s holds no seed of %d bytes under %q: delete it and restart the operator, which makes another; nodes are not reached for some minutes then", k.namespace, seedSecret, len(Seed{}), name)
		}
		seed := Seed(data)
		*to = &seed
	}
	if rotated, err := time.Parse(time.RFC3339, string(secret.Data[rotatedKey])); err == nil {
		s.rotated = rotated
	}
	if old := k.seeds.Load(); old == nil || old.Fingerprint() != s.Fingerprint() || !old.rotated.Equal(s.rotated) {
		k.seeds.Store(&s)
	}
	return nil
}

// Seeds are those of now.
func (k *Keyring) Seeds() *Seeds { return k.seeds.Load() }

// RotateWhenElected lets this replica rotate the seeds as soon as it is elected. It is called
// before Start.
func (k *Keyring) RotateWhenElected(elected <-chan struct{}) { k.leading = elected }

// Start keeps the seeds up to date until ctx ends (manager.Runnable).
func (k *Keyring) Start(ctx context.Context) error {
	tick := time.NewTicker(seedReload)
	defer tick.Stop()
	for {
		if err := k.Refresh(ctx); err != nil {
			ctrl.Log.Error(err, "the control keys stay as they are")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica
// follows the rotations, so that it can take over at any time.
func (k *Keyring) NeedLeaderElection() bool { return false }

// Refresh reads the Secret, and rotates the seeds when it is time.
func (k *Keyring) Refresh(ctx context.Context) error {
	secret, err := k.read(ctx)
	if err != nil {
		return err
	}
	if err := k.use(secret); err != nil {
		return err
	}
	select {
	case <-k.leading:
	default:
		return nil
	}
	due := k.fill(secret) // of an operator that rotated nothing
	if s := k.seeds.Load(); !due && k.Now().Sub(s.rotated) >= k.lifetime {
		k.turn(secret)
		due = true
	}
	if !due {
		return nil
	}
	// Crash after: the new seeds are used from the next start on. Nodes trust
	// them already, as those that come next.
	if err := k.client.Update(ctx, secret); err != nil {
		return fmt.Errorf("rotating the control keys: %w", err)
	}
	ctrl.Log.Info("the control keys were rotated")
	return k.use(secret)
}

// turn makes the next seed the current one.
func (k *Keyring) turn(secret *corev1.Secret) {
	secret.Data[previousKey], secret.Data[seedKey] = secret.Data[seedKey], secret.Data[nextKey]
	secret.Data[nextKey] = newSeed()
	secret.Data[rotatedKey] = []byte(k.Now().UTC().Format(time.RFC3339))
}

// around are the seeds whose keys are trusted besides the current one's.
func (s *Seeds) around() (out []*Seed) {
	for _, seed := range []*Seed{s.previous, s.next} {
		if seed != nil {
			out = append(out, seed)
		}
	}
	return out
}

// operatorKeys are the operator's half of the control API with a node.
func (s *Seeds) operatorKeys(n *v1alpha1.PyrsiaNode) control.Keys {
	keys := control.Keys{Own: s.current.operatorKey(), Peer: public(s.current.nodeKey(n))}
	for _, seed := range s.around() {
		keys.Also = append(keys.Also, public(seed.nodeKey(n)))
	}
	return keys
}

// NodeFiles are the node's half: its private key, and the operator's public ones.
func (s *Seeds) NodeFiles(n *v1alpha1.PyrsiaNode) (own, operator []byte, err error) {
	if own, err = control.MarshalPrivateKey(s.current.nodeKey(n)); err != nil {
		return nil, nil, err
	}
	keys := []ed25519.PublicKey{public(s.current.operatorKey())}
	for _, seed := range s.around() {
		keys = append(keys, public(seed.operatorKey()))
	}
	operator, err = control.MarshalPublicKeys(keys...)
	return own, operator, err
}

// Fingerprint changes with the seeds; it says nothing of them.
func (s *Seeds) Fingerprint() string {
	h := sha256.New()
	h.Write(public(s.current.operatorKey()))
	for _, seed := range s.around() {
		h.Write(public(seed.operatorKey()))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }
