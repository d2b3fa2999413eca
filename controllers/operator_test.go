package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pyrsia/pyrsia-operator/controllers"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// startOperator runs the operator as its main does, but counts what it writes.
func (c *cluster) startOperator() error {
	o, err := c.runOperator(operatorOptions{wrap: func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			c.writes.count(r)
			return next.RoundTrip(r)
		})
	}})
	if err != nil {
		return err
	}
	c.stop, c.metrics = o.stop, o.metrics
	return nil
}

// operatorOptions say how an operator differs from that of a cluster.
type operatorOptions struct {
	wrap      func(http.RoundTripper) http.RoundTripper // its way to the API server
	hosts     pyrsianode.HostRules                      // those of the installation if there are none
	namespace string                                    // the one that it looks at; all if empty
	lease     string                                    // by which it is chosen; none if empty
}

// operator is one that runs.
type operator struct {
	keys    *nodeclient.Keyring
	metrics *prometheus.Registry
	ended   chan struct{}
	err     error // why it ended; after ended
	stop    func()
}

func (c *cluster) runOperator(o operatorOptions) (*operator, error) {
	if o.hosts.Namespace == "" {
		o.hosts = pyrsianode.DefaultHostRules("pyrsia-system")
	}
	restConfig := rest.CopyConfig(c.env.Config)
	restConfig.QPS = -1
	restConfig.Impersonate = rest.ImpersonationConfig{
		UserName: operatorAccount,
		Groups:   []string{"system:serviceaccounts", "system:authenticated"},
	}
	restConfig.Wrap(asked.wrap)
	restConfig.Wrap(o.wrap)
	options := ctrl.Options{
		Scheme: c.scheme, Cache: controllers.CacheOptions(o.hosts), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)},
	}
	if o.namespace != "" {
		options.Cache.DefaultNamespaces = map[string]cache.Config{o.namespace: {}}
	}
	if o.lease != "" {
		options.LeaderElection, options.LeaderElectionNamespace, options.LeaderElectionID = true, "pyrsia-system", o.lease
		options.LeaseDuration, options.RenewDeadline, options.RetryPeriod = new(3*time.Second), new(2*time.Second), new(500*time.Millisecond)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out := &operator{metrics: prometheus.NewRegistry(), ended: make(chan struct{})}
	out.stop = func() { cancel(); <-out.ended }
	err := out.start(ctx, c, restConfig, options, o.hosts)
	if err != nil {
		cancel()
	}
	return out, err
}

func (o *operator) start(ctx context.Context, c *cluster, restConfig *rest.Config, options ctrl.Options, hosts pyrsianode.HostRules) error {
	direct, err := client.New(restConfig, client.Options{Scheme: c.scheme})
	if err != nil {
		return err
	}
	if o.keys, err = controllers.LoadKeyring(ctx, direct, "pyrsia-system", 30*24*time.Hour); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(restConfig, options)
	if err != nil {
		return err
	}
	if err := controllers.Setup(ctx, mgr, controllers.Config{Keys: o.keys, NodeImage: "ghcr.io/pyrsia/pyrsia:test", KeysEvery: patience / 20, KeyOverlap: time.Nanosecond, Hosts: hosts, Metrics: o.metrics}); err != nil {
		return err
	}
	go func() { o.err = mgr.Start(ctx); close(o.ended) }()
	return nil
}

const operatorAccount = "system:serviceaccount:pyrsia-system:pyrsia-operator"

// as is a client with the rights of a user.
func (c *cluster) as(t *testing.T, user string, groups ...string) client.Client {
	t.Helper()
	config := rest.CopyConfig(c.env.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	as, err := client.New(config, client.Options{Scheme: c.scheme})
	must(t, err)
	return as
}

// grant gives a user rights to the Artifacts of a namespace.
func (c *cluster) grant(t *testing.T, ns, user string, verbs []any) {
	t.Helper()
	rule := map[string]any{"apiGroups": []any{"pyrsia.io"}, "resources": []any{"artifacts"}, "verbs": verbs}
	to := map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
	for kind, content := range map[string]map[string]any{
		"Role":        {"rules": []any{rule}},
		"RoleBinding": {"roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}, "subjects": []any{to}},
	} {
		obj := &unstructured.Unstructured{Object: content}
		obj.SetAPIVersion("rbac.authorization.k8s.io/v1")
		obj.SetKind(kind)
		obj.SetNamespace(ns)
		obj.SetName(user)
		c.create(t, obj)
	}
}

// nodesOf reaches nodes as the operator does, which are read from a client.
func nodesOf(t *testing.T, c client.Reader) *nodeclient.Nodes {
	t.Helper()
	keys, err := controllers.LoadKeyring(t.Context(), testCluster(t), "pyrsia-system", time.Hour)
	must(t, err)
	return nodeclient.NewNodes(c, keys, time.Now)
}

// restartOperator ends the operator and starts it anew.
func (c *cluster) restartOperator(t *testing.T) {
	t.Helper()
	c.stop()
	if err := c.startOperator(); err != nil {
		t.Fatalf("restarting the operator: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// writeCounter counts what is not a read.
type writeCounter struct {
	mu     sync.Mutex
	counts map[string]int // owned by mu; by method and path
}

func (w *writeCounter) count(r *http.Request) {
	if r.Method == http.MethodGet || strings.Contains(r.URL.Path, "/leases") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts == nil {
		w.counts = map[string]int{}
	}
	w.counts[r.Method+" "+r.URL.Path]++
}

// during returns the writes that are made in a namespace while do runs.
func (w *writeCounter) during(namespace string, do func()) []string {
	read := func() map[string]int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return maps.Clone(w.counts)
	}
	before := read()
	do()
	var out []string
	for path, n := range read() {
		if strings.Contains(path, "/namespaces/"+namespace+"/") && n > before[path] {
			out = append(out, fmt.Sprintf("%d x %s", n-before[path], path))
		}
	}
	slices.Sort(out)
	return out
}
