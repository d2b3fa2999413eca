package e2e

import (
	"bufio"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
)

// columns checks what a reader of `kubectl get artifacts` sees.
func columns(t *testing.T, w *steps.Env) {
	out, err := w.Output(t.Context(), "kubectl", "get", "artifacts")
	if err != nil {
		t.Fatal(err)
	}
	head, rows, _ := strings.Cut(out, "\n")
	want := []string{"NAME", "IMAGE", "DIGEST", "BLOCK", "VERIFIED", "PULLED", "AGE"}
	if diff := cmp.Diff(want, strings.Fields(head)); diff != "" {
		t.Error(diff)
	}
	row := regexp.MustCompile(`^\S+ +docker\.io/library/\S+ +sha256:[0-9a-f]{64} +[0-9]+ +True( +\S+){1,2}$`)
	for line := range strings.Lines(rows) {
		if !row.MatchString(strings.TrimSpace(line)) {
			t.Errorf("row: %s", line)
		}
	}
}

// badInput checks that mistakes are rejected, or end in a condition that says
// what to do.
func badInput(t *testing.T, w *steps.Env) {
	network := &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
	rejected := map[string]struct {
		spec v1alpha1.PyrsiaNodeSpec
		want string
	}{
		"unknown role": {v1alpha1.PyrsiaNodeSpec{Role: "Boss", Network: network}, "spec.role"},
		"two trust roots": {v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror, Network: &v1alpha1.Network{
			PublisherRef: network.PublisherRef,
			LedgerKey:    "example.com/pyrsia+1a2b3c4d+" + strings.Repeat("A", 43) + "=",
			Bootstrap:    []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"},
		}}, "exactly one root of trust"},
		"malformed key": {v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror, Network: &v1alpha1.Network{
			LedgerKey: "not a key",
			Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"},
		}}, "spec.network.ledgerKey"},
	}
	for name, tt := range rejected {
		t.Run(name, func(t *testing.T) {
			err := w.Client.Create(t.Context(), &v1alpha1.PyrsiaNode{
				ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: "default"}, Spec: tt.spec})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a rejection that names %q", err, tt.want)
			}
		})
	}
	t.Run("upstream is down", func(t *testing.T) { upstreamDown(t, w) })
}

// upstreamDown publishes an image while the demo's upstream is stopped.
func upstreamDown(t *testing.T, w *steps.Env) {
	set := &v1alpha1.OfficialImageSet{
		ObjectMeta: metav1.ObjectMeta{Name: "too-late", Namespace: "default"},
		Spec: v1alpha1.OfficialImageSetSpec{
			PublisherRef: v1alpha1.LocalReference{Name: "publisher"},
			Images:       []v1alpha1.ImageTags{{Repository: "alpine", Tags: []string{"3.20"}}},
		},
	}
	if err := w.Client.Create(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Client.Delete(t.Context(), set); err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		if err := w.Client.Get(t.Context(), client.ObjectKeyFromObject(set), set); err != nil {
			t.Fatal(err)
		}
		ready := meta.FindStatusCondition(set.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Status == metav1.ConditionFalse && len(set.Status.Failures) == 1 {
			if f := set.Status.Failures[0]; f.Reason != "UpstreamUnavailable" || f.Message == "" {
				t.Errorf("failure: %+v", f)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("conditions: %+v, failures: %+v", set.Status.Conditions, set.Status.Failures)
		}
	}
}

// steady counts the API server's writes to what the operator owns: in a
// minute in which nothing happens there must be none.
func steady(t *testing.T, w *steps.Env) {
	time.Sleep(15 * time.Second) // the receipts of the last pulls are read
	before := writes(t, w)
	time.Sleep(time.Minute)
	after := writes(t, w)
	for series, n := range after {
		if n != before[series] {
			t.Errorf("%v writes in a minute: %s", n-before[series], series)
		}
	}
}

var (
	label = regexp.MustCompile(`(\w+)="([^"]*)"`)
	owned = []string{"artifacts", "officialimagesets", "pyrsianodes", "daemonsets", "statefulsets", "deployments",
		"secrets", "configmaps", "services", "events"}
	written = []string{"APPLY", "DELETE", "PATCH", "POST", "PUT"}
)

// writes reads the API server's request counters.
func writes(t *testing.T, w *steps.Env) map[string]float64 {
	t.Helper()
	out, err := w.Output(t.Context(), "kubectl", "get", "--raw", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "apiserver_request_total{")
		if !ok {
			continue
		}
		labels := map[string]string{}
		for _, m := range label.FindAllStringSubmatch(rest, -1) {
			labels[m[1]] = m[2]
		}
		if labels["resource"] == "events" && labels["group"] != "events.k8s.io" {
			continue // the kubelets', which still write to the older API
		}
		if !slices.Contains(owned, labels["resource"]) || !slices.Contains(written, labels["verb"]) {
			continue
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			t.Fatal(err)
		}
		counts[labels["verb"]+" "+labels["resource"]+"/"+labels["subresource"]] += n
	}
	if len(counts) == 0 {
		t.Fatal("the API server counts no writes at all")
	}
	return counts
}
