package pullhistory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

const (
	// defaultPullLimit and defaultPullAge are the API's defaults, for objects
	// that were created before it had them.
	defaultPullLimit = 1000
	defaultPullAge   = 30 * 24 * time.Hour
	// maxMade bounds the Artifacts that are made in one turn.
	maxMade = 100
)

// pull is an image that was pulled, with the Artifact that was made of it, if
// there is one.
type pull struct {
	key  pullKey
	last time.Time
	art  *v1alpha1.Artifact
}

// history decides which pulls have an Artifact: those of the last maxAge, and
// of these the newest ones.
func history(pulls []pull, limit int, maxAge time.Duration, now time.Time) (keep, leave []pull) {
	slices.SortFunc(pulls, newestFirst)
	n := 0
	for n < min(limit, len(pulls)) && now.Sub(pulls[n].last) <= maxAge {
		n++
	}
	return pulls[:n], pulls[n:]
}

// ensureArtifacts brings the node's Artifacts in line with what was heard.
func (r *Reconciler) ensureArtifacts(ctx context.Context, v *nodeclient.Visit, b *book, pods []corev1.Pod) error {
	n := v.Node
	pulls, err := r.loadPulls(ctx, n, b)
	if err != nil {
		return err
	}
	limit, maxAge := defaultPullLimit, defaultPullAge
	if n.Spec.PullHistory.Limit != nil {
		limit = int(*n.Spec.PullHistory.Limit)
	}
	if n.Spec.PullHistory.MaxAge != nil {
		maxAge = n.Spec.PullHistory.MaxAge.Duration
	}
	keep, leave := history(pulls, limit, maxAge, r.Now())
	for _, p := range leave {
		delete(b.heard, p.key)
		if p.art != nil {
			if err := r.remove(ctx, p.art); err != nil {
				return err
			}
		}
	}
	made := 0
	for _, p := range keep {
		if p.art != nil {
			if err := r.record(ctx, b, p.art, p.last); err != nil {
				return err
			}
			continue
		}
		if made == maxMade {
			continue // the next turn goes on
		}
		ok, err := r.make(ctx, v, b, p, pods)
		if err != nil {
			return err
		}
		if ok {
			made++
		}
	}
	return nil
}

// loadPulls reads the pulls that have an Artifact of the node's own, and those that
// have none. A pull of an image that an Artifact has published is recorded in that
// one, and needs no other.
func (r *Reconciler) loadPulls(ctx context.Context, n *v1alpha1.PyrsiaNode, b *book) ([]pull, error) {
	own := new(v1alpha1.ArtifactList)
	err := r.Client.List(ctx, own, client.InNamespace(n.Namespace), client.MatchingFields{objects.IndexNode: string(n.UID)}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the Artifacts of %s: %w", n.Name, err)
	}
	var pulls []pull
	seen := map[pullKey]bool{}
	for i := range own.Items {
		art := &own.Items[i]
		p := pull{key: pullKey{art.Spec.Image, art.Spec.Digest}, last: art.CreationTimestamp.Time, art: art}
		if !objects.Alike(art, pulledArtifact(n, p.key)) {
			continue // that the node is its owner, anybody can write
		}
		seen[p.key] = true
		if objects.IsLeaving(art) {
			continue // it has the name until it is gone
		}
		published, err := r.published(ctx, n, p.key)
		if err != nil {
			return nil, err
		}
		if published != nil {
			if err := r.remove(ctx, art); err != nil {
				return nil, err
			}
			seen[p.key] = false
			continue
		}
		if art.Status.LastPulled != nil {
			p.last = art.Status.LastPulled.Time
		}
		if h, ok := b.heard[p.key]; ok && h.last.After(p.last) {
			p.last = h.last
		}
		pulls = append(pulls, p)
	}
	for key, h := range b.heard {
		if seen[key] {
			continue
		}
		published, err := r.published(ctx, n, key)
		if err != nil {
			return nil, err
		}
		if published == nil {
			pulls = append(pulls, pull{key: key, last: h.last})
			continue
		}
		if err := r.record(ctx, b, published, h.last); err != nil {
			return nil, err
		}
	}
	return pulls, nil
}

// published is the Artifact that published an image on the node's ledger.
func (r *Reconciler) published(ctx context.Context, n *v1alpha1.PyrsiaNode, key pullKey) (*v1alpha1.Artifact, error) {
	publisher := n.Name
	if n.Spec.Role == v1alpha1.RoleMirror {
		if n.Spec.Network == nil || n.Spec.Network.PublisherRef == nil {
			return nil, nil
		}
		publisher = n.Spec.Network.PublisherRef.Name
	}
	art := new(v1alpha1.Artifact)
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: n.Namespace, Name: objects.ArtifactName(key.image, key.digest)}, art)
	if err != nil || art.Spec.Image != key.image || art.Spec.Digest != key.digest || art.Spec.PublisherRef.Name != publisher || objects.IsLeaving(art) {
		return nil, client.IgnoreNotFound(err)
	}
	return art, nil
}

// make makes an Artifact, if the node's ledger proves that the image is on it.
func (r *Reconciler) make(ctx context.Context, v *nodeclient.Visit, b *book, p pull, pods []corev1.Pod) (made bool, err error) {
	n, h := v.Node, b.heard[p.key]
	i := slices.IndexFunc(pods, func(pod corev1.Pod) bool { return pod.UID == h.pod })
	if i < 0 {
		delete(b.heard, p.key) // the pod is gone: another one tells when the image is pulled again
		return false, nil
	}
	budget := b.pods[h.pod].budget
	if budget.Tokens() < 1 {
		return false, nil
	}
	_, err = v.Proven(ctx, pods[i], p.key.image, p.key.digest)
	if nodeclient.IsUnusable(err) {
		return false, nil // it is asked again the next time
	}
	budget.Allow()
	_, lies := errors.AsType[*nodeclient.UnprovenError](err)
	if refusal, ok := errors.AsType[*control.Error](err); ok && refusal.Reason == control.ReasonNotOnLedger {
		lies = true
	}
	if lies {
		r.refuse(n, b.pods[h.pod], &pods[i], err)
		delete(b.heard, p.key)
	}
	if err != nil {
		return false, nil // else it is asked again the next time
	}
	delete(b.heard, p.key)
	art := pulledArtifact(n, p.key)
	if err := controllerutil.SetOwnerReference(n, art, r.Client.Scheme()); err != nil {
		return false, fmt.Errorf("making the Artifact of %s: %w", p.key.image, err)
	}
	err = r.Client.Create(ctx, art)
	if apierrors.IsAlreadyExists(err) {
		return false, nil // the cache does not show it yet; or somebody made one by hand
	}
	if err != nil {
		return false, fmt.Errorf("making the Artifact of %s: %w", p.key.image, err)
	}
	// Crash before: a later turn finds the Artifact without a time, and records that it was made.
	return true, r.record(ctx, b, art, p.last)
}

func pulledArtifact(n *v1alpha1.PyrsiaNode, key pullKey) *v1alpha1.Artifact {
	return &v1alpha1.Artifact{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: objects.ArtifactName(key.image, key.digest) + "-" + n.Name},
		Spec:       v1alpha1.ArtifactSpec{Image: key.image, Digest: key.digest, NodeRef: v1alpha1.LocalReference{Name: n.Name}},
	}
}

func (r *Reconciler) remove(ctx context.Context, art *v1alpha1.Artifact) error {
	err := r.Client.Delete(ctx, art.DeepCopy(), client.Preconditions{UID: &art.UID})
	return objects.Wrap(client.IgnoreNotFound(err), "deleting Artifact %s", art.Name)
}
