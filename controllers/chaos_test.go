package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
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
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
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

	if err := c.Delete(t.Context(), mirror); err != nil {
		t.Fatal(err)
	}
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
		if err != nil {
			t.Fatal(err)
		}
		text := ledgerKeys.ReplaceAllString(strings.ReplaceAll(string(data), ns, "NS"), "KEY")
		text = uids.ReplaceAllString(text, "UID") // of a mirror, in its set-up's arguments
		text = addresses.ReplaceAllString(text, "IP")
		out[kind+" "+name] = mirrorPorts.ReplaceAllString(text, "${1}PORT")
	}
	list := func(l client.ObjectList) {
		if err := c.List(t.Context(), l, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
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

// Of two operators one acts. When it is cut off from the API server it ends by
// itself, before the other one begins, and writes nothing when it is let back.
func TestOneOperatorActs(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	ns := c.namespace(t)
	first, second := newWatched(), newWatched()
	a, err := c.runOperator(operatorOptions{lease: "one-acts", namespace: ns, wrap: first.wrap})
	if err != nil {
		t.Fatal(err)
	}
	defer a.stop()
	publisher := publisherNode(ns, "http://127.0.0.1:1")
	c.create(t, publisher)
	c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	b, err := c.runOperator(operatorOptions{lease: "one-acts", namespace: ns, wrap: second.wrap})
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	another := func(name string) {
		n := publisherNode(ns, "http://127.0.0.1:1")
		n.Name = name
		c.create(t, n)
		c.awaitTemplate(t, n)
	}
	another("while-both-run")
	if n := len(second.writes()); n > 0 {
		t.Errorf("%d writes of an operator that waits", n)
	}
	first.cut.Store(true)
	another("while-the-first-is-cut-off")
	select {
	case <-a.ended:
	case <-time.After(patience):
		t.Fatal("the operator without a lease goes on")
	}
	if a.err == nil {
		t.Error("it ended without an error: nobody would start it again")
	}
	first.cut.Store(false)
	another("afterwards")
	last, begin := first.writes(), second.writes()
	if len(last) == 0 || len(begin) == 0 || !last[len(last)-1].Before(begin[0]) {
		t.Errorf("the first operator wrote last at %v, the second began at %v", last[len(last)-1], begin[0])
	}
}

// watched notes when an operator writes, and may be cut off.
type watched struct {
	cut atomic.Bool

	mu    sync.Mutex // guards times
	times []time.Time
}

func newWatched() *watched { return &watched{} }

func (w *watched) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if w.cut.Load() {
			return nil, errors.New("cut off")
		}
		if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/namespaces/test-") {
			w.mu.Lock()
			w.times = append(w.times, time.Now())
			w.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

func (w *watched) writes() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time{}, w.times...)
}

// The API server is gone for a minute: nodes go on, and the operator finishes
// its work when it is back.
func TestAPIServerIsDownForAMinute(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	if err := c.startOperator(); err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	ns := c.namespace(t)
	up := newUpstream(t)
	digest := up.push(t, "library/alpine:3.20")
	publisher := publisherNode(ns, up.URL)
	c.create(t, publisher)
	pod := c.runPod(t, publisher, "")
	c.awaitCurrent(t, publisher)
	c.create(t, fixtures.ImageSet(ns, time.Hour, v1alpha1.ImageTags{Repository: "alpine", Tags: []string{"3.20"}}))

	start := c.killAPIServer(t)
	// What is shown is that the node serves for all of a minute without an API server.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		resp, err := http.Get("http://" + pod.config.OpenAddr + "/readyz")
		if err != nil {
			t.Fatalf("the node is gone: %v", err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatalf("the node is not ready: %s", resp.Status)
		}
	}
	start()
	art := c.artifact(t, ns, "docker.io/library/alpine:3.20", digest)
	c.awaitCurrent(t, art)
	c.awaitCurrent(t, publisher)
}

// killAPIServer kills the API server; start starts one on the same data.
func (c *cluster) killAPIServer(t *testing.T) (start func()) {
	t.Helper()
	port := c.env.ControlPlane.APIServer.SecureServing.Port
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		data, err := os.ReadFile(file)
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if err != nil || !strings.HasSuffix(args[0], "kube-apiserver") || !strings.Contains(string(data), "--secure-port="+port+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return func() {
			cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			eventually(t, func() error { return c.List(t.Context(), new(corev1.NamespaceList)) })
		}
	}
	t.Fatalf("no API server at port %s", port)
	return nil
}

// Control keys are rotated while requests run: none fails, whether the node or
// the operator has the new keys first, and pods are not restarted.
func TestControlKeysAreRotated(t *testing.T) {
	t.Parallel()
	c := ownCluster(t)
	o, err := c.runOperator(operatorOptions{wrap: func(next http.RoundTripper) http.RoundTripper { return next }})
	if err != nil {
		t.Fatal(err)
	}
	defer o.stop()
	ns := c.namespace(t)
	publisher, mirror := publisherNode(ns, "http://127.0.0.1:1"), mirrorNode(ns)
	c.create(t, publisher, mirror)
	pods := map[*v1alpha1.PyrsiaNode]*pod{publisher: c.runPod(t, publisher, ""), mirror: c.runPod(t, mirror, "")}
	c.awaitCurrent(t, publisher)
	c.awaitCurrent(t, mirror)
	generations := map[string]int64{}
	for n := range pods {
		generations[n.Name] = c.workloadGeneration(t, n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asked := atomic.Int64{}
	nodes := nodeclient.NewNodes(c.WithWatch, o.keys, time.Now)
	for n, p := range pods {
		n := n.DeepCopy() // the other is read again and again
		asking.Go(func() {
			for ctx.Err() == nil {
				// A new connection each time, as after a restart of either side.
				client, err := nodes.Client(n, p.ip)
				if err == nil {
					client.Close()
					_, err = client.Status(context.Background(), 0)
				}
				if err != nil {
					t.Errorf("request %d to %s: %v", asked.Load(), n.Name, err)
					return
				}
				asked.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	used := map[string]bool{}
	for range 3 {
		used[o.keys.Seeds().Fingerprint()] = true
		before := asked.Load()
		o.keys.Now = func() time.Time { return time.Now().Add(time.Duration(len(used)) * 365 * 24 * time.Hour) }
		if err := o.keys.Refresh(t.Context()); err != nil { // as Start does in time
			t.Fatal(err)
		}
		fingerprint := o.keys.Seeds().Fingerprint()
		if used[fingerprint] {
			t.Fatal("the keys are the same")
		}
		eventually(t, func() error { // the operator writes the Secrets; the nodes do not have them yet
			for n := range pods {
				c.get(t, n)
				if got := conditionsText(n.Status.Conditions); !strings.Contains(got, fingerprint) || asked.Load() < before+20 {
					return fmt.Errorf("%s: %s", n.Name, got)
				}
			}
			return nil
		})
		for n, p := range pods { // the kubelet brings them
			c.refreshKeys(t, n, p)
		}
		between := asked.Load()
		eventually(t, func() error {
			if asked.Load() < between+20 {
				return errors.New("no requests")
			}
			return nil
		})
	}
	cancel()
	asking.Wait()
	t.Logf("%d requests with new connections in 3 rotations", asked.Load())
	for n := range pods {
		if got := c.workloadGeneration(t, n); got != generations[n.Name] {
			t.Errorf("the pods of %s were replaced", n.Name)
		}
		c.awaitCondition(t, n, v1alpha1.ConditionLedgerVerified, metav1.ConditionTrue, "")
	}
}

// refreshKeys does what a kubelet does some time after a Secret has changed.
func (c *cluster) refreshKeys(t *testing.T, n *v1alpha1.PyrsiaNode, p *pod) {
	t.Helper()
	template, dir := c.awaitTemplate(t, n), t.TempDir()
	for file, mounted := range map[string]string{p.config.ControlKeyFile: "/keys/" + desired.NodeKeyFile, p.config.OperatorKeyFile: "/keys/" + desired.OperatorKeyFile} {
		if err := os.Rename(c.secretFile(t, n, template, dir, mounted), file); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) workloadGeneration(t *testing.T, n *v1alpha1.PyrsiaNode) int64 {
	t.Helper()
	var obj client.Object = new(appsv1.DaemonSet)
	if n.Spec.Role == v1alpha1.RolePublisher {
		obj = new(appsv1.StatefulSet)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(n), obj); err != nil {
		t.Fatal(err)
	}
	return obj.GetGeneration()
}
