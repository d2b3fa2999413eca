package controllers_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

// patience is how long a test waits for what should come soon: longer than what
// the operator and its libraries may wait before they try again, which is up to
// a minute. The operator under test writes Secrets again much sooner.
const patience = 2 * time.Minute

// cluster is a real API server with the operator's controllers.
type cluster struct {
	client.WithWatch
	env    *envtest.Environment
	scheme *runtime.Scheme
	writes writeCounter
	// of the operator that runs
	metrics *prometheus.Registry
	stop    func()
}

var (
	onlooking   onlooker
	theCluster  *cluster
	startOnce   sync.Once
	errStarting error
)

func TestMain(m *testing.M) {
	if file := os.Getenv(nodeProcessEnv); file != "" {
		os.Exit(runNodeProcess(file))
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // the tests wait more than they work
		panic(err)
	}
	code := m.Run()
	ruled.stop()
	unruled.stop()
	if theCluster != nil {
		pattern := flag.Lookup("test.run").Value.String()
		all := code == 0 && (pattern == "" || pattern == ".") && flag.Lookup("test.skip").Value.String() == ""
		if tell(slices.Concat(asked.verdict(all), onlooking.verdict(all))) {
			code = 1
		}
		onlooking.stop()
		if theCluster.stop != nil {
			theCluster.stop()
		}
		if err := theCluster.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the API server:", err)
		}
	}
	os.Exit(code)
}

// testCluster is the package's API server, with the operator running.
func testCluster(t *testing.T) *cluster {
	t.Helper()
	needCluster(t)
	startOnce.Do(func() {
		if theCluster, errStarting = startCluster(); errStarting == nil {
			errStarting = onlooking.look(theCluster.WithWatch)
		}
		if errStarting == nil {
			errStarting = theCluster.startOperator()
		}
	})
	if errStarting != nil {
		t.Fatalf("starting the API server: %v", errStarting)
	}
	return theCluster
}

// ownCluster is an API server of a test's own, without an operator.
func ownCluster(t *testing.T) *cluster {
	t.Helper()
	needCluster(t)
	c, err := startCluster()
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	t.Cleanup(func() { _ = c.env.Stop() }) // a test may have killed a part of it
	return c
}

func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		const reason = "KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd ('make test' does)"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
}

// startCluster starts an API server and installs what the operator needs.
func startCluster() (*cluster, error) {
	ctrl.SetLogger(zap.New(zap.UseDevMode(true), zap.WriteTo(logFile())))
	c := &cluster{
		env: &envtest.Environment{CRDDirectoryPaths: []string{"../config/crd"}, ErrorIfCRDPathMissing: true,
			ControlPlaneStartTimeout: patience}, // several start in parallel, on a machine that may be busy
		scheme: runtime.NewScheme(),
	}
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, eventsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(c.scheme); err != nil {
			return nil, err
		}
	}
	c.env.ControlPlane.GetAPIServer().Configure().
		Append("enable-admission-plugins", "OwnerReferencesPermissionEnforcement").
		Set("service-cluster-ip-range", "10.0.0.0/16,fd00:10:96::/112") // it gives Services addresses of both families
	restConfig, err := c.env.Start()
	if err != nil {
		return nil, err
	}
	if c.WithWatch, err = client.NewWithWatch(restConfig, client.Options{Scheme: c.scheme}); err != nil {
		return nil, err
	}
	if err := c.install(); err != nil {
		return nil, err
	}
	return c, nil
}

// install applies config/default, so that the operator has the rights that it
// has on any cluster, and no more.
func (c *cluster) install() error {
	for _, file := range []string{"../config/default/namespace.yaml", "../config/default/install.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for doc := range strings.SplitSeq(string(data), "\n---\n") {
			obj := new(unstructured.Unstructured)
			if err := yaml.Unmarshal([]byte(doc), obj); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if obj.GetKind() == "" {
				continue
			}
			if err := c.Create(context.Background(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("installing %s %s: %w", obj.GetKind(), obj.GetName(), err)
			}
		}
	}
	return nil
}

// logFile takes the operator's log, if a test's author wants to see it.
func logFile() *os.File {
	if name := os.Getenv("PYRSIA_TEST_LOG"); name != "" {
		if f, err := os.Create(name); err == nil {
			return f
		}
	}
	null, _ := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	return null
}

// namespace makes a namespace for one test, that may have mirrors.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{objects.LabelMirrors: objects.MirrorsAllowed}}}
	must(t, c.Create(t.Context(), ns))
	return ns.Name
}

// ownNamespace has a test run beside others, in a namespace of its own.
func ownNamespace(t *testing.T) (c *cluster, ns string) {
	t.Helper()
	t.Parallel()
	c = testCluster(t)
	return c, c.namespace(t)
}

// must ends a test that an error keeps from going on.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) create(t *testing.T, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatalf("creating %T %s: %v", obj, obj.GetName(), err)
		}
	}
}

func (c *cluster) delete(t *testing.T, obj client.Object) {
	t.Helper()
	must(t, c.Delete(t.Context(), obj))
}

// decode reads one object of a manifest.
func decode(t *testing.T, c *cluster, data []byte) client.Object {
	t.Helper()
	obj, _, err := serializer.NewCodecFactory(c.scheme, serializer.EnableStrict).UniversalDeserializer().Decode(data, nil, nil)
	must(t, err)
	return obj.(client.Object)
}

// get reads an object again.
func (c *cluster) get(t *testing.T, obj client.Object) {
	t.Helper()
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj))
}

// change updates a PyrsiaNode, whose status the operator may be writing.
func (c *cluster) change(t *testing.T, n *v1alpha1.PyrsiaNode, do func(*v1alpha1.PyrsiaNodeSpec)) {
	t.Helper()
	change(t, c, n, func(n *v1alpha1.PyrsiaNode) { do(&n.Spec) })
}

// eventually waits until check has nothing to complain about.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("still after %v: %v", patience, err)
}

// until reads an object again and again, until check has nothing to complain about.
func (c *cluster) until(t *testing.T, obj client.Object, check func() error) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		return check()
	})
}

// errorIf is what eventually waits for to end: that something is wrong.
func errorIf(wrong bool, format string, args ...any) error {
	if !wrong {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// awaitCondition waits for a condition with a status and a reason (any, if empty).
func (c *cluster) awaitCondition(t *testing.T, obj status.Object, name string, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	var got *metav1.Condition
	c.until(t, obj, func() error {
		got = meta.FindStatusCondition(*obj.Conditions(), name)
		return errorIf(got == nil || got.Status != status || reason != "" && got.Reason != reason, "%s: want %s=%s (%s), conditions are:\n%s", obj.GetName(), name, status, reason, conditionsText(*obj.Conditions()))
	})
	return *got
}

func conditionsText(conditions []metav1.Condition) string {
	var b strings.Builder
	for _, c := range conditions {
		fmt.Fprintf(&b, "  %s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	return b.String()
}

// awaitCurrent waits until kstatus would call the object Current.
func (c *cluster) awaitCurrent(t *testing.T, obj status.Object) {
	t.Helper()
	c.awaitCondition(t, obj, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
	if *obj.ObservedGeneration() != obj.GetGeneration() {
		t.Errorf("%s: observedGeneration %d of %d", obj.GetName(), *obj.ObservedGeneration(), obj.GetGeneration())
	}
	for _, name := range []string{v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		if meta.FindStatusCondition(*obj.Conditions(), name) != nil {
			t.Errorf("%s is Ready and has the condition %s", obj.GetName(), name)
		}
	}
}
