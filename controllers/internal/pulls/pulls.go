// Package pulls carries the times of pulls from the controller that reads them of the nodes
// to that of Artifacts, which is the one writer of their status.
// It imports the API alone. The controllers pullhistory and artifact call it.
package pulls

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// pullEvery is how much later than status.lastPulled an image must be pulled
// for that to be written: a busy image costs one write in that time.
const pullEvery = time.Hour

// Pulls carries the times of pulls from the receipts to the controller of
// Artifacts, which is the one writer of their status.
type Pulls struct {
	Wake chan event.GenericEvent

	mu   sync.Mutex
	last map[types.NamespacedName]time.Time // of Artifacts to be written; owned by mu
}

// New makes an empty one.
func New() *Pulls {
	return &Pulls{Wake: make(chan event.GenericEvent), last: map[types.NamespacedName]time.Time{}}
}

// Expect has the status of an Artifact that is about to be made tell of a pull.
func (p *Pulls) Expect(art *v1alpha1.Artifact, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[client.ObjectKeyFromObject(art)] = at
}

// Note has an Artifact's status tell of a pull, if that is news.
func (p *Pulls) Note(ctx context.Context, art *v1alpha1.Artifact, at time.Time) {
	if !isNews(art, at) {
		return
	}
	p.Expect(art, at)
	select {
	case p.Wake <- event.GenericEvent{Object: art}:
	case <-ctx.Done():
	}
}

func isNews(art *v1alpha1.Artifact, at time.Time) bool {
	return art.Status.LastPulled == nil || at.Sub(art.Status.LastPulled.Time) >= pullEvery
}

// Tell puts what was noted into the status, and forgets what is there.
func (p *Pulls) Tell(art *v1alpha1.Artifact) {
	key := client.ObjectKeyFromObject(art)
	p.mu.Lock()
	at, ok := p.last[key]
	p.mu.Unlock()
	switch {
	case !ok:
	case isNews(art, at):
		art.Status.LastPulled = new(metav1.NewTime(at.Truncate(time.Second)))
	default:
		p.Told(key)
	}
}

// Told forgets an Artifact.
func (p *Pulls) Told(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
