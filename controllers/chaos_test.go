package controllers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// An operator that is killed at any of its writes, before the API server has
// got it or before the answer has come, leaves what its successor brings to the
// same end.
func TestKilledAtEachWrite(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	up := newUpstream(t)
	up.push(t, "library/alpine:3.20")
	want, writes := c.life(t, up, 0, false)
	t.Logf("%d writes from the beginning to the end", writes)
	if writes < 20 {
		t.Fatalf("%d writes are too few for the whole way", writes)
	}
	// Under load some statuses are written once more: those are met as well.
	for n := 1; n <= writes; n++ {
		for _, sent := range []bool{false, true} {
			if os.Getenv("PYRSIA_CHAOS") == "" && sent == (n%2 == 0) {
				continue // in turns; with PYRSIA_CHAOS=1 both
			}
			t.Run(fmt.Sprintf("write %d, sent %v", n, sent), func(t *testing.T) {
				t.Parallel()
				got, _ := c.life(t, up, n, sent)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("another end (-undisturbed +killed):\n%s", diff)
				}
			})
		}
	}
}

// life runs a publisher, a mirror and an image set from their creation to the
// mirror's deletion, with an operator that is killed at its n-th write (not at
// all if 0) and started again. It returns what there was when all was ready,
// and after that.
func (c *cluster) life(t *testing.T, up *upstream, n int, sent bool) (ends []map[string]string, writes int) {
	t.Helper()
	ns := c.namespace(t)
	m := &mortal{c: c, ns: ns, at: int32(n), sent: sent, killed: make(chan struct{})}
	must(t, m.run())
	defer m.end()

	publisher, mirror := publisherNode(ns, up.URL), mirrorNode(ns)
	set := fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}})
	c.create(t, publisher, mirror, set)
	c.runPod(t, publisher, "")
	follower := c.runPod(t, mirror, "")
	for _, obj := range []status.Object{publisher, set, mirror} {
		c.awaitCurrent(t, obj)
	}
	eventually(t, func() error {
		for _, n := range []*v1alpha1.PyrsiaNode{publisher, mirror} {
			if c.get(t, n); objects.LedgerSize(n) != 1 {
				return fmt.Errorf("%s has %d blocks", n.Name, objects.LedgerSize(n))
			}
		}
		return nil
	})
	ends = append(ends, c.state(t, ns))

	c.delete(t, mirror)
	follower.stop()
	cleanup := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: desired.CleanupName(mirror)}}
	eventually(t, func() error { return c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup) })
	c.setDaemonSetStatus(t, ns, cleanup.Name, 1, 1)
	eventually(t, func() error {
		// An operator that died when the clean-up was gone, but not yet the
		// finalizer, does it again: each one runs.
		err := c.Get(t.Context(), client.ObjectKeyFromObject(cleanup), cleanup)
		if err == nil && cleanup.Status.ObservedGeneration != cleanup.Generation {
			cleanup.Status = appsv1.DaemonSetStatus{ObservedGeneration: cleanup.Generation, DesiredNumberScheduled: 1, NumberReady: 1}
			err = c.Status().Update(t.Context(), cleanup)
		}
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		for _, obj := range []client.Object{mirror, cleanup} {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T %s is still there: %v", obj, obj.GetName(), err)
			}
		}
		return nil
	})
	return append(ends, c.state(t, ns)), int(m.writes.Load())
}

// mortal is an operator that dies at a write, and is started again.
type mortal struct {
	c      *cluster
	ns     string
	at     int32
	sent   bool
	writes atomic.Int32
	dead   atomic.Bool
	killed chan struct{}

	mu      sync.Mutex // guards what follows
	current *operator
	over    bool
}

var errKilled = errors.New("the operator is dead")

func (m *mortal) run() error {
	o, err := m.c.runOperator(operatorOptions{namespace: m.ns, wrap: m.wrap})
	m.current = o
	if err == nil {
		go m.revive()
	}
	return err
}

// wrap lets requests pass until the fatal one.
func (m *mortal) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if m.dead.Load() {
			return nil, errKilled
		}
		if r.Method == http.MethodGet || !strings.Contains(r.URL.Path, "/namespaces/"+m.ns+"/") || m.writes.Add(1) != m.at {
			return next.RoundTrip(r)
		}
		if m.sent {
			if resp, err := next.RoundTrip(r); err == nil {
				resp.Body.Close()
			}
		}
		m.dead.Store(true)
		close(m.killed)
		return nil, errKilled
	})
}

// revive starts another operator when the first one was killed.
func (m *mortal) revive() {
	<-m.killed
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	m.current.stop()
	pass := func(next http.RoundTripper) http.RoundTripper { return next }
	if o, err := m.c.runOperator(operatorOptions{namespace: m.ns, wrap: pass}); err == nil {
		m.current = o
	}
}

func (m *mortal) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	m.current.stop()
}

var (
	ledgerKeys  = regexp.MustCompile(`[A-Za-z0-9./_-]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{44}`)
	uids        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	addresses   = regexp.MustCompile(`\b(10|127)(\.[0-9]{1,3}){3}\b`)
	mirrorPorts = regexp.MustCompile(`(IP:|"port":)2\d{4}\b`) // of mirrorNode
)

// state is what there is in a namespace, without what differs each time.
func (c *cluster) state(t *testing.T, ns string) map[string]string {
	t.Helper()
	out := map[string]string{}
	add := func(kind, name string, facts ...any) {
		data, err := json.Marshal(facts)
		must(t, err)
		text := ledgerKeys.ReplaceAllString(strings.ReplaceAll(string(data), ns, "NS"), "KEY")
		text = uids.ReplaceAllString(text, "UID") // of a mirror, in its set-up's arguments
		text = addresses.ReplaceAllString(text, "IP")
		out[kind+" "+name] = mirrorPorts.ReplaceAllString(text, "${1}PORT")
	}
	list := func(l client.ObjectList) {
		must(t, c.List(t.Context(), l, client.InNamespace(ns)))
	}
	nodes, sets, artifacts := new(v1alpha1.PyrsiaNodeList), new(v1alpha1.OfficialImageSetList), new(v1alpha1.ArtifactList)
	stateful, daemons, services, secrets := new(appsv1.StatefulSetList), new(appsv1.DaemonSetList), new(corev1.ServiceList), new(corev1.SecretList)
	for _, l := range []client.ObjectList{nodes, sets, artifacts, stateful, daemons, services, secrets} {
		list(l)
	}
	for _, o := range nodes.Items {
		add("PyrsiaNode", o.Name, reasons(o.Status.Conditions), o.Finalizers, o.Status.Ledger != nil, o.Status.Nodes, o.Status.KeyGeneration)
	}
	for _, o := range sets.Items {
		add("OfficialImageSet", o.Name, reasons(o.Status.Conditions), o.Status.Desired, o.Status.Published, o.Status.Failed)
	}
	for _, o := range artifacts.Items {
		add("Artifact", o.Name, o.Spec, reasons(o.Status.Conditions), o.Status.Block.Height, o.Status.Platforms)
	}
	for _, o := range stateful.Items {
		add("StatefulSet", o.Name, o.Spec)
	}
	for _, o := range daemons.Items {
		add("DaemonSet", o.Name, o.Spec)
	}
	for _, o := range services.Items {
		add("Service", o.Name, o.Spec.Ports, o.Spec.Selector)
	}
	for _, o := range secrets.Items {
		keys := map[string]int{}
		for key, value := range o.Data {
			keys[key] = strings.Count(string(value), "\n")
		}
		add("Secret", o.Name, keys, len(o.OwnerReferences))
	}
	return out
}

func reasons(conditions []metav1.Condition) map[string]string {
	out := map[string]string{}
	for _, c := range conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}
