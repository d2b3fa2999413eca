package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/artifact"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	pyrsia "github.com/pyrsia/pyrsia-operator/node"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// receiptsRead is how long it takes until the operator has read a node's receipts.
const receiptsRead = 12 * time.Second

// pull asks a mirror for an image as containerd does.
func (p *pod) pull(t *testing.T, image string) {
	t.Helper()
	repository, reference, _ := strings.Cut(image, ":")
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s?ns=docker.io", net.JoinHostPort(p.ip, fmt.Sprint(p.port)), repository, reference)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("pulling %s: %s", image, resp.Status)
	}
}

// elsewhere is a cluster that only mirrors: a namespace with a mirror that
// knows no more of the publisher than its key and address.
func (c *cluster) elsewhere(t *testing.T, publisher *v1alpha1.PyrsiaNode, at *pod) (*v1alpha1.PyrsiaNode, *pod) {
	t.Helper()
	c.get(t, publisher)
	mirror := mirrorNode(c.namespace(t))
	mirror.Spec.Network = &v1alpha1.Network{
		LedgerKey: publisher.Status.Ledger.Key,
		Bootstrap: []string{fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", at.ip, desired.PortP2P, publisher.Status.PeerID)},
	}
	c.create(t, mirror)
	p := c.runPod(t, mirror, "")
	c.awaitCurrent(t, mirror)
	return mirror, p
}

// alpines runs a publisher that has published some tags of alpine, and returns
// their digests by name.
func (c *cluster) alpines(t *testing.T, ns string, up *upstream, tags ...string) (at *pod, digests map[string]string) {
	t.Helper()
	digests = map[string]string{}
	for _, tag := range tags {
		digests["docker.io/library/alpine:"+tag] = up.push(t, "library/alpine:"+tag)
	}
	at = c.aPublisher(t, ns, up.URL)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: tags})
	c.create(t, set)
	c.awaitCurrent(t, set)
	return at, digests
}

// On a cluster that only mirrors, what is pulled becomes Artifacts, verified
// and bounded, and more pulls write nothing.
func TestPulledImagesBecomeArtifacts(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	at, digests := c.alpines(t, ns, up, "1", "2", "3", "never")
	publisher := publisherNode(ns, up.URL)
	mirror, pod := c.elsewhere(t, publisher, at)

	for _, tag := range []string{"1", "2"} {
		pod.pull(t, "library/alpine:"+tag)
	}
	for _, tag := range []string{"1", "2"} {
		image := "docker.io/library/alpine:" + tag
		art := c.artifact(t, mirror.Namespace, image, digests[image])
		c.awaitCurrent(t, art)
		c.awaitPulled(t, art, time.Time{})
		verifyOffline(t, publisher.Status.Ledger.Key, art)
		if art.Spec.NodeRef.Name != mirror.Name || art.Status.LastPulled == nil || time.Since(art.Status.LastPulled.Time) > time.Hour || len(art.Status.Platforms) != 2 {
			t.Errorf("%s: %+v", image, art)
		}
	}
	writes := c.writes.during(mirror.Namespace, func() {
		for range 50 {
			pod.pull(t, "library/alpine:1")
		}
		time.Sleep(receiptsRead)
	})
	if len(writes) > 0 {
		t.Errorf("written by more pulls:\n%s", strings.Join(writes, "\n"))
	}

	// No more than two are kept: those that were pulled last.
	pod.pull(t, "library/alpine:3")
	change(t, c, mirror, func(n *v1alpha1.PyrsiaNode) { n.Spec.PullHistory.Limit = new(int32(2)) })
	eventually(t, func() error {
		var images []string
		for _, art := range c.artifacts(t, mirror.Namespace) {
			images = append(images, art.Spec.Image)
		}
		slices.Sort(images)
		diff := cmp.Diff([]string{"docker.io/library/alpine:1", "docker.io/library/alpine:3"}, images)
		return errorIf(diff != "", "%s", diff)
	})

	// Where the image was published by an Artifact, that one tells of the pull.
	local := mirrorNode(ns)
	c.create(t, local)
	again := c.runPod(t, local, "")
	c.awaitCurrent(t, local)
	again.pull(t, "library/alpine:1")
	eventually(t, func() error {
		art := c.artifact(t, ns, "docker.io/library/alpine:1", digests["docker.io/library/alpine:1"])
		return errorIf(art.Status.LastPulled == nil, "the Artifact does not tell of the pull")
	})
	if arts := c.artifacts(t, ns); len(arts) != len(digests) {
		t.Errorf("%d Artifacts where there were %d", len(arts), len(digests))
	}
}

// What names a node as its owner is not the node's by that: it takes no place in
// the history of pulls, and is not deleted with it. An Artifact that is being
// deleted already is not deleted over and over.
func TestHistoryIsWhatTheNodeMade(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	at, digests := c.alpines(t, ns, up, "1", "2")
	mirror, pod := c.elsewhere(t, publisherNode(ns, up.URL), at)
	change(t, c, mirror, func(n *v1alpha1.PyrsiaNode) { n.Spec.PullHistory.Limit = new(int32(1)) })
	const one = "docker.io/library/alpine:1"
	pod.pull(t, "library/alpine:1")
	own := c.artifact(t, mirror.Namespace, one, digests[one])
	var forged []*v1alpha1.Artifact
	for _, name := range []string{"forged", "also-forged"} {
		art := fixtures.Artifact(mirror.Namespace, name, "docker.io/library/alpine:2", digests["docker.io/library/alpine:2"])
		art.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "PyrsiaNode", Name: mirror.Name, UID: mirror.UID}}
		forged = append(forged, art)
	}
	forged[1].Spec.PublisherRef, forged[1].Spec.NodeRef = v1alpha1.LocalReference{}, v1alpha1.LocalReference{Name: mirror.Name}
	c.create(t, forged[0], forged[1])
	time.Sleep(receiptsRead)
	for _, art := range append(forged, own) {
		c.get(t, art)
		if !art.DeletionTimestamp.IsZero() {
			t.Errorf("%s is deleted", art.Name)
		}
	}

	change(t, c, own, func(a *v1alpha1.Artifact) { a.Finalizers = []string{somebodysFinalizer} })
	t.Cleanup(func() { _ = c.letGo(own) })
	change(t, c, mirror, func(n *v1alpha1.PyrsiaNode) { n.Spec.PullHistory.Limit = new(int32(0)) })
	c.until(t, own, func() error {
		return errorIf(own.DeletionTimestamp.IsZero(), "what is beyond the limit is not deleted")
	})
	time.Sleep(2 * time.Second) // what was on its way
	if writes := c.writes.during(mirror.Namespace, func() { time.Sleep(2 * receiptsRead) }); len(writes) > 0 {
		t.Errorf("what is being deleted already is written:\n%s", strings.Join(writes, "\n"))
	}
}

// An Artifact by hand looks an image up, and tells when the ledger withdraws it.
func TestArtifactByHandIsLookedUp(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	at, digests := c.alpines(t, ns, up, "1")
	digest := digests["docker.io/library/alpine:1"]
	mirror, _ := c.elsewhere(t, publisherNode(ns, up.URL), at)
	lookup := func(name, image, digest string) *v1alpha1.Artifact {
		return &v1alpha1.Artifact{
			ObjectMeta: metav1.ObjectMeta{Namespace: mirror.Namespace, Name: name},
			Spec:       v1alpha1.ArtifactSpec{Image: image, Digest: digest, NodeRef: v1alpha1.LocalReference{Name: mirror.Name}},
		}
	}
	there := lookup("there", "docker.io/library/alpine:1", digest)
	other := lookup("other", "docker.io/library/alpine:2", digest)
	c.create(t, there, other)
	c.awaitCurrent(t, there)
	c.awaitCondition(t, other, v1alpha1.ConditionReady, metav1.ConditionFalse, "NotOnLedger")

	published := c.artifact(t, ns, "docker.io/library/alpine:1", digest)
	change(t, c, published, func(a *v1alpha1.Artifact) { a.Spec.State, a.Spec.Reason = v1alpha1.StateRevoked, "it has a backdoor" })
	c.awaitCondition(t, published, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Revoked")
	c.until(t, mirror, func() error {
		return errorIf(objects.LedgerSize(mirror) <= published.Status.Revocation.Height, "the mirror does not have the revocation")
	})
	r := &artifact.Reconciler{Client: c, Nodes: nodesOf(t, c), Now: time.Now}
	c.get(t, there) // which the operator looks at each few minutes
	steps := r.Steps(there)
	if _, err := steps[len(steps)-1](t.Context(), there); !errors.Is(err, reconcile.TerminalError(nil)) || status.IsTrue(there, v1alpha1.ConditionVerified) {
		t.Errorf("it is not withdrawn: %v", err)
	}
	again := lookup("again", "docker.io/library/alpine:1", digest)
	c.create(t, again)
	got := c.awaitCondition(t, again, v1alpha1.ConditionVerified, metav1.ConditionFalse, "Revoked")
	if !status.IsTrue(again, v1alpha1.ConditionRevoked) || !status.IsTrue(again, v1alpha1.ConditionStalled) || again.Status.Revocation.Height != published.Status.Revocation.Height {
		t.Errorf("%s\n%+v", got.Message, again.Status)
	}
}

// liar is a node that was taken over: its receipts and blocks are what somebody
// wants them to be.
type liar struct {
	control.Node
	receipts []control.Receipt
	block    control.Block
}

func (l *liar) Receipts(_ context.Context, since int64) (*control.Receipts, error) {
	out := new(control.Receipts)
	for _, r := range l.receipts {
		if r.Sequence > since {
			out.Receipts = append(out.Receipts, r)
		}
	}
	return out, nil
}

func (l *liar) Find(context.Context, control.FindRequest) (*control.FindResponse, error) {
	return &control.FindResponse{Block: l.block}, nil
}

// takeOver runs a pod of a node with a liar at its control API, and returns the
// pod's name.
func (c *cluster) takeOver(t *testing.T, n *v1alpha1.PyrsiaNode, lie func(pyrsia.Config) *liar) string {
	t.Helper()
	template := c.awaitTemplate(t, n)
	p := &pod{ip: nextIP(), data: t.TempDir()}
	config := c.nodeConfig(t, n, template, p)
	keys, err := control.ReadKeys(config.ControlKeyFile, config.OperatorKeyFile)
	must(t, err)
	tlsConfig, err := keys.ServerTLS()
	must(t, err)
	addr := config.ControlAddr
	config.ControlAddr, config.ControlKeyFile, config.OperatorKeyFile = "", "", ""
	config.Logger = slog.New(slog.DiscardHandler)
	server := &http.Server{Addr: addr, Handler: control.Handler(lie(config)), TLSConfig: tlsConfig, ReadHeaderTimeout: time.Second}
	go func() { _ = server.ListenAndServeTLS("", "") }()
	t.Cleanup(func() { _ = server.Close() })
	p.Pod = c.createPod(t, n, template, p.ip)
	return p.Pod.Name
}

// What a node says of pulls is not believed without the ledger's proof.
func TestHostileReceiptsMakeNoArtifacts(t *testing.T) {
	c, ns := ownNamespace(t)
	up := newUpstream(t)
	at, digests := c.alpines(t, ns, up, "1")
	digest := digests["docker.io/library/alpine:1"]
	real := c.artifact(t, ns, "docker.io/library/alpine:1", digest)
	c.awaitCurrent(t, real)
	published := control.Block{Height: real.Status.Block.Height, Entry: real.Status.Block.Entry, Proof: real.Status.Block.Proof}
	evil := "sha256:" + strings.Repeat("e", 64)

	mirror, honest := c.elsewhere(t, publisherNode(ns, up.URL), at)
	liars := map[string]string{} // by pod
	for name, tc := range map[string]struct {
		image, digest string
		block         func(control.Block) control.Block
	}{
		"another digest of a published image":   {"docker.io/library/alpine:1", evil, nil},
		"another image with a published digest": {"docker.io/library/backdoor:1", digest, nil},
		"an entry that was never published": {"docker.io/library/backdoor:2", evil, func(b control.Block) control.Block {
			b.Entry = strings.NewReplacer("alpine", "backdoor", digest, evil).Replace(b.Entry)
			return b
		}},
		"another height":                  {"docker.io/library/alpine:1", digest, func(b control.Block) control.Block { b.Height++; return b }},
		"a name that climbs":              {"docker.io/../../etc:1", digest, nil},
		"a name that is not the full one": {"alpine:1", digest, nil},
		"something that is no digest":     {"docker.io/library/alpine:1", "sha256:..", nil},
	} {
		pod := c.takeOver(t, mirror, func(config pyrsia.Config) *liar {
			node, err := pyrsia.Start(context.WithoutCancel(t.Context()), config)
			must(t, err)
			t.Cleanup(func() { _ = node.Close() })
			l := &liar{Node: node, block: published}
			if tc.block != nil {
				l.block = tc.block(published)
			}
			l.receipts = []control.Receipt{{Sequence: 1, Image: tc.image, Digest: tc.digest, Pulls: 1, LastPulled: time.Now().Add(1000 * time.Hour)}}
			return l
		})
		liars[pod] = name
	}
	eventually(t, func() error {
		list := new(eventsv1.EventList)
		if err := c.List(t.Context(), list, client.InNamespace(mirror.Namespace)); err != nil {
			return err
		}
		var errs []error
		for pod, name := range liars {
			if !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == "ReceiptRefused" && e.Related.Name == pod }) {
				errs = append(errs, fmt.Errorf("no event tells of %s", name))
			}
		}
		return errors.Join(errs...)
	})
	if arts := c.artifacts(t, mirror.Namespace); len(arts) > 0 {
		t.Errorf("an Artifact was made: %+v", arts[0].Spec)
	}
	// A pod that is honest is believed, whatever the others say.
	honest.pull(t, "library/alpine:1")
	c.awaitCurrent(t, c.artifact(t, mirror.Namespace, "docker.io/library/alpine:1", digest))
	if arts := c.artifacts(t, mirror.Namespace); len(arts) != 1 {
		t.Errorf("%d Artifacts", len(arts))
	}
}
