package controllers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ownedByHand names a set as an Artifact's owner, as the set itself does.
func ownedByHand(art *v1alpha1.Artifact, set *v1alpha1.OfficialImageSet) *v1alpha1.Artifact {
	art.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "OfficialImageSet", Name: set.Name, UID: set.UID, Controller: new(true),
	}}
	return art
}

// The creator of an Artifact can write any digest, and any set as the owner,
// into it. A tag still means what its registry says.
func TestWhoMakesArtifactsCannotMoveATag(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	const image = "docker.io/library/alpine:3.20"
	old := up.push(t, "library/alpine:3.20")
	now := up.push(t, "library/alpine:3.20")
	evil := up.push(t, "mallory/tool:1")
	c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	tool := fixtures.Artifact(ns, "tool", "docker.io/mallory/tool:1", evil) // his own, under its own name
	c.create(t, set, tool)
	c.awaitCurrent(t, set)
	c.awaitCurrent(t, tool)

	for name, tc := range map[string]struct{ digest, reason string }{
		"another repository's": {evil, "DigestNotInRepository"},
		"never pushed":         {"sha256:" + strings.Repeat("0", 64), "DigestNotInRepository"},
		"an older one":         {old, "TagPointsElsewhere"},
	} {
		art := fixtures.Artifact(ns, strings.ReplaceAll(name, "'s", "")[:5]+"-by-hand", image, tc.digest)
		art.Name = strings.ReplaceAll(art.Name, " ", "-")
		c.create(t, art)
		got := c.awaitCondition(t, art, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
		if !strings.Contains(got.Message, now) {
			t.Errorf("%s: the message does not say where the tag points: %s", name, got.Message)
		}
		forged := ownedByHand(fixtures.Artifact(ns, art.Name+"-forged", image, tc.digest), set)
		c.create(t, forged)
		eventually(t, func() error { // the set may take it for its own, and give it up
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(forged), forged); err != nil {
				return client.IgnoreNotFound(err)
			}
			if forged.Status.Block != nil {
				t.Fatalf("%s, with a forged owner: published as %s", name, forged.Status.Block.Entry)
			}
			cond := c.condition(forged, v1alpha1.ConditionReady)
			return errorIf(cond == nil || cond.Reason != tc.reason && cond.Reason != "Superseded", "%s, with a forged owner: %+v", name, cond)
		})
	}
	publisher := publisherNode(ns, up.URL)
	c.get(t, publisher)
	if n := publisher.Status.Ledger.Size; n != 2 {
		t.Errorf("the ledger has %d blocks, want 2", n)
	}

	pin := fixtures.Artifact(ns, "pin", image, old)
	pin.Spec.Pinned = true
	c.create(t, pin)
	got := c.awaitCondition(t, pin, v1alpha1.ConditionPublished, metav1.ConditionTrue, "Published")
	c.awaitCurrent(t, pin)
	if entry, err := ledger.ParseEntry([]byte(pin.Status.Block.Entry)); err != nil || !entry.Pinned || !strings.Contains(got.Message, "the publisher's word") {
		t.Errorf("the pin is block %s, %v: %s", pin.Status.Block.Entry, err, got.Message)
	}
	foreign := fixtures.Artifact(ns, "foreign-pin", image, evil)
	foreign.Spec.Pinned = true
	c.create(t, foreign)
	c.awaitCondition(t, foreign, v1alpha1.ConditionReady, metav1.ConditionFalse, "DigestNotInRepository")
}

// condition is a condition of an object as it was read last.
func (c *cluster) condition(obj status.Object, name string) *metav1.Condition {
	for _, cond := range *obj.Conditions() {
		if cond.Type == name {
			return &cond
		}
	}
	return nil
}

// publications are those that a publisher was asked for.
type publications struct {
	mu   sync.Mutex // guards what follows
	seen map[string]bool
	all  map[string]int
}

func (a *publications) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req control.PublishRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	a.mu.Lock()
	a.all[req.Image+"@"+req.Digest]++
	a.seen[req.Image+"@"+req.Digest] = a.seen[req.Image+"@"+req.Digest] || req.Seen
	a.mu.Unlock()
	refusal := control.Error{Reason: control.ReasonTagPointsElsewhere, Message: "it moved"}
	if req.Seen {
		refusal.Reason = control.ReasonSuperseded
	}
	w.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(w).Encode(refusal)
}

func (a *publications) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.seen)
	clear(a.all)
}

func (a *publications) of(art *v1alpha1.Artifact) (times int, seen bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := art.Spec.Image + "@" + art.Spec.Digest
	return a.all[key], a.seen[key]
}

// That a set saw a tag is said of the digest alone to which this operator had
// it resolved for that set: an owner reference proves nothing, and neither does
// a set that is gone.
func TestOnlyWhatASetSawIsSaidToBeSeen(t *testing.T) {
	c, ns := ownNamespace(t)
	b := fixtures.NewBook(t).Add(t, "a")
	saw, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	publish := &publications{seen: map[string]bool{}, all: map[string]int{}}
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, publisher)
	c.runLiar(t, publisher, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/publish":
			publish.ServeHTTP(w, r)
		case "/v1/resolve":
			_ = json.NewEncoder(w).Encode(control.ResolveResponse{Digest: saw})
		default:
			_ = json.NewEncoder(w).Encode(control.Status{Role: control.Publisher, PeerID: "12D3KooW", Ledger: b.Status(t, 0)})
		}
	}, false)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"1"}})
	c.create(t, set)
	await := func(name string, art *v1alpha1.Artifact, want bool) {
		t.Helper()
		eventually(t, func() error {
			times, seen := publish.of(art)
			if times == 0 || want && !seen {
				return fmt.Errorf("%s: asked %d times, seen: %v", name, times, seen)
			}
			if seen && !want {
				t.Fatalf("%s is said to be seen", name)
			}
			return nil
		})
	}
	own := c.artifact(t, ns, "docker.io/library/alpine:1", saw)
	await("the set's own", own, true)
	c.awaitReason(t, own, v1alpha1.ConditionPublished, "Superseded")

	forged := ownedByHand(fixtures.Artifact(ns, "forged", "docker.io/library/alpine:1", other), set)
	elsewhere := ownedByHand(fixtures.Artifact(ns, "elsewhere", "docker.io/library/alpine:2", saw), set)
	notOwned := fixtures.Artifact(ns, "not-owned", "docker.io/library/alpine:3", saw)
	c.create(t, forged, elsewhere, notOwned)
	await("another digest, with the set as its owner", forged, false)
	await("an image that the set does not have", elsewhere, false)
	await("one that no set owns", notOwned, false)

	c.delete(t, set)
	eventually(t, func() error { // its Artifact stays here, because nothing collects garbage, and is retried
		times, seen := publish.of(own)
		if times == 0 || seen {
			publish.reset()
			return fmt.Errorf("asked %d times; a set that is gone is believed: %v", times, seen)
		}
		return nil
	})
}

// To pin a tag takes the right to do so, and not only to make Artifacts.
func TestPinsNeedARightOfTheirOwn(t *testing.T) {
	c, ns := ownNamespace(t)
	for user, verbs := range map[string][]any{"maker": {"create"}, "pinner": {"create", "pin"}} {
		c.grant(t, ns, user, verbs)
	}
	try := func(user string, pinned bool) error {
		art := fixtures.Artifact(ns, "by-"+user, "docker.io/library/alpine:3.20", "sha256:"+strings.Repeat("0", 64))
		art.Spec.Pinned = pinned
		return c.as(t, user).Create(t.Context(), art, client.DryRunAll)
	}
	eventually(t, func() error { return errors.Join(try("maker", false), try("pinner", false), try("pinner", true)) })
	eventually(t, func() error { // the API server has its policies a moment after its start
		err := try("maker", true)
		return errorIf(!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `needs the verb "pin"`), "without the right: %v", err)
	})
}
