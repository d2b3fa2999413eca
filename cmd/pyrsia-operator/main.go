// Command pyrsia-operator runs the controllers of pyrsia.io.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	_ "k8s.io/client-go/plugin/pkg/client/auth/exec" // credentials of managed clusters, outside a pod
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=pyrsia-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups="",namespace=pyrsia-system,resources=events,verbs=create;patch

// version is set by the build.
var version = "dev"

type config struct {
	nodeImage   string
	namespace   string
	metricsAddr string
	healthAddr  string
	leaderElect bool
	keyLifetime time.Duration
	hosts       pyrsianode.HostRules
	log         zap.Options
}

// gcPercent is how much of what is in use the operator's heap grows by before it is
// collected: a cluster is short of memory rather than of the processor time of an
// operator. The environment variable GOGC overrides it.
const gcPercent = 75

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	c := config{hosts: pyrsianode.DefaultHostRules(""), log: zap.Options{StacktraceLevel: zapcore.PanicLevel}}
	flag.StringVar(&c.nodeImage, "node-image", "ghcr.io/pyrsia/pyrsia:v0.1.0", "container image of PyrsiaNodes that name none, and of all containers that run as root or on the host's network")
	flag.StringVar(&c.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "the operator's own namespace, for its seed Secret and its Lease (default: $POD_NAMESPACE)")
	flag.StringVar(&c.metricsAddr, "metrics-addr", ":8080", `where to serve Prometheus metrics; "0" for nowhere`)
	flag.StringVar(&c.healthAddr, "health-addr", ":8081", "where to serve /healthz and /readyz")
	flag.BoolVar(&c.leaderElect, "leader-elect", true, "let one of several replicas work, chosen by a Lease")
	flag.DurationVar(&c.keyLifetime, "control-key-lifetime", 30*24*time.Hour, "after how long the keys of the nodes' control API are rotated, 1h or longer")
	list := func(name string, to *[]string, usage string) {
		flag.Func(name, usage, func(s string) error { *to = strings.FieldsFunc(s, func(c rune) bool { return c == ',' }); return nil })
	}
	list("namespaces", &c.hosts.Namespaces, "comma-separated namespaces in which alone the operator works, beside its own; mirrors are allowed in them (default: all, with mirrors in its own and those with the label pyrsia.io/mirrors=allowed)")
	list("host-path-roots", &c.hosts.HostPathRoots, "comma-separated folders directly below which mirrors may keep data on Kubernetes nodes (default "+strings.Join(c.hosts.HostPathRoots, ",")+")")
	list("containerd-config-paths", &c.hosts.ContainerdConfigPaths, "comma-separated folders in which mirrors may set containerd up (default "+strings.Join(c.hosts.ContainerdConfigPaths, ",")+")")
	ports := fmt.Sprint(c.hosts.MirrorPorts[0])
	flag.Func("mirror-ports", "comma-separated ports, or ranges of them, at which mirrors may listen on Kubernetes nodes (default "+ports+")", func(s string) (err error) {
		c.hosts.MirrorPorts, err = pyrsianode.ParsePortRanges(s)
		return err
	})
	c.log.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&c.log)))
	ctrl.Log.Info("pyrsia-operator", "version", version)

	if err := run(ctrl.SetupSignalHandler(), c); err != nil {
		fmt.Fprintln(os.Stderr, "pyrsia-operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	if c.namespace == "" {
		return fmt.Errorf("give --namespace or set POD_NAMESPACE: the namespace in which the operator keeps its seed")
	}
	if c.keyLifetime < time.Hour {
		return fmt.Errorf("--control-key-lifetime %s: 1h or longer, for the kubelets need minutes to bring new keys to the nodes", c.keyLifetime)
	}
	c.hosts.Namespace = c.namespace
	if err := c.hosts.Check(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("building the scheme: %w", err)
		}
	}
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the cluster: %w", err)
	}
	restConfig.QPS = -1 // the API server's own priority and fairness decides, not a guess made here
	direct, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	keys, err := controllers.LoadKeyring(ctx, direct, c.namespace, c.keyLifetime)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         controllers.CacheOptions(c.hosts),
		Metrics:                       server.Options{BindAddress: "0"}, // ports serves them
		HealthProbeBindAddress:        "0",
		LeaderElection:                c.leaderElect,
		LeaderElectionID:              "pyrsia-operator",
		LeaderElectionNamespace:       c.namespace,
		LeaderElectionReleaseOnCancel: true, // the process ends as soon as Start returns
	})
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	if err := controllers.Setup(ctx, mgr, controllers.Config{Keys: keys, NodeImage: c.nodeImage, Hosts: c.hosts, Metrics: metrics.Registry}); err != nil {
		return err
	}
	served, err := ports(ctx, c)
	if err != nil {
		return err
	}
	for _, port := range served {
		if err := mgr.Add(port); err != nil {
			return fmt.Errorf("adding the ports: %w", err)
		}
	}
	return mgr.Start(ctx)
}
