package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// proxying is a real API server, but for its proxy to the publisher's pod: there is
// no machine with that pod.
func proxying(t *testing.T, kubeconfig string, node http.Handler) string {
	t.Helper()
	config := mustConfig(t, kubeconfig)
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	others := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	const pod = "/api/v1/namespaces/default/pods/publisher-0:8080/proxy"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, pod+"/") {
			if r.Method != http.MethodGet {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			http.StripPrefix(pod, node).ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A node is asked through the API server, with kubectl's flags, and answers in the
// forms that kubectl prints.
func TestNodesAreAskedThroughTheAPIServer(t *testing.T) {
	_, kubeconfig := apiServer(t)
	skey, _, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d := digest.FromString("image")
	if _, err := w.Append(t.Context(), entry("docker.io/library/alpine:3.20", d, ledger.Platform{Platform: "linux/amd64", Digest: d, Config: d, Size: 1})); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", w.Handler())
	mux.HandleFunc("/api/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(client.Status{Role: "Publisher", Version: "v9", Ready: true, Blocks: 1})
	})
	mux.HandleFunc("/api/v1/peers", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]client.Peer{{ID: "12D3", Via: "http"}})
	})
	server := proxying(t, kubeconfig, mux)
	run := func(args ...string) (string, error) {
		c := new(cluster)
		c.reach = c.toNode
		root := command(c)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{"--server", server, "-n", "default"}, args...))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run("status"); err == nil || !strings.Contains(err.Error(), "none of the 0 pods of PyrsiaNode publisher is ready") {
		t.Errorf("without a pod: %v\n%s", err, out)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "publisher-0", Labels: map[string]string{
		"app.kubernetes.io/name": "pyrsia", "app.kubernetes.io/instance": "publisher", "app.kubernetes.io/component": "publisher",
	}}}
	pod.Spec.Containers = []corev1.Container{{Name: "node", Image: "pyrsia"}}
	ready := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	pods, err := kube.New(mustConfig(t, kubeconfig), kube.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	pod.Status = ready
	if err := pods.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"status":                       "Publisher, ready, version v9",
		"status -o yaml":               "\nrole: Publisher\n",
		"status -o json":               `"version": "v9"`,
		"status -o jsonpath={.blocks}": "1",
		"peers":                        "12D3",
		"peers -o jsonpath={[*].via}":  "http",
		"log alpine:3.20":              d.String(),
		"log alpine:3.20 -o wide":      "registry.example",
		"log alpine:3.20 -o yaml":      "- entry: ",
		"log alpine:3.20 -o json":      `"height": 0`,
		"log " + d.String():            "docker.io/library/alpine:3.20",
		"proof alpine:3.20":            `"proof": "c2sp.org/tlog-proof@v1`,
		"log":                          d.String(),
		"log --since 1h -o csv":        "\n0,",
		"log --repository docker.io/library/* -o jsonpath={[*].height}":  "0",
		"log --repository quay.io/* -o json":                             "[]",
		"log --platform linux/arm64 -o json":                             "[]",
		"--request-timeout 20s log alpine:3.20 -o jsonpath={[0].height}": "0",
	} {
		if out, err := run(strings.Fields(args)...); err != nil || !strings.Contains("\n"+out, want) {
			t.Errorf("%s: %v, want %q in\n%s", args, err, want, out)
		}
	}
	for args, want := range map[string]string{
		"log alpine:9":                  "alpine:9 is not on the ledger of " + server,
		"log alpine:3.20 --since 1h":    "leave out IMAGE",
		"log --repository [":            "syntax error",
		"log --limit=-1":                "not negative",
		"log alpine:3.20 -o xml":        "-o xml: want wide, json, yaml or jsonpath=TEMPLATE",
		"-n nowhere status":             "there is no PyrsiaNode in namespace nowhere",
		"--pyrsianode other status":     "not found",
		"--context nowhere log alpine":  "nowhere",
		"log alpine@sha256:0123456789a": "12 digits",
	} {
		if out, err := run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q\n%s", args, err, want, out)
		}
	}
}

func mustConfig(t *testing.T, kubeconfig string) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}
