package controllers

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
	wake chan event.GenericEvent

	mu   sync.Mutex
	last map[types.NamespacedName]time.Time // of Artifacts to be written; owned by mu
}

// NewPulls makes an empty one.
func NewPulls() *Pulls {
	return &Pulls{wake: make(chan event.GenericEvent), last: map[types.NamespacedName]time.Time{}}
}

// expect has the status of an Artifact that is about to be made tell of a pull.
func (p *Pulls) expect(art *v1alpha1.Artifact, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[client.ObjectKeyFromObject(art)] = at
}

// note has an Artifact's status tell of a pull, if that is news.
func (p *Pulls) note(ctx context.Context, art *v1alpha1.Artifact, at time.Time) {
	if !isNews(art, at) {
		return
	}
	p.expect(art, at)
	select {
	case p.wake <- event.GenericEvent{Object: art}:
	case <-ctx.Done():
	}
}

func isNews(art *v1alpha1.Artifact, at time.Time) bool {
	return art.Status.LastPulled == nil || at.Sub(art.Status.LastPulled.Time) >= pullEvery
}

// tell puts what was noted into the status, and forgets what is there.
func (p *Pulls) tell(art *v1alpha1.Artifact) {
	key := client.ObjectKeyFromObject(art)
	p.mu.Lock()
	at, ok := p.last[key]
	p.mu.Unlock()
	switch {
	case !ok:
	case isNews(art, at):
		art.Status.LastPulled = new(metav1.NewTime(at.Truncate(time.Second)))
	default:
		p.told(key)
	}
}

// told forgets an Artifact.
func (p *Pulls) told(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
