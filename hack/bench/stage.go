package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// stage is a real API server, with the operator and nodes in processes of their
// own. This program does what the kubelet would do.
type stage struct {
	kube.Client
	env      *envtest.Environment
	dir      string
	metrics  string // URL of the operator's
	operator *exec.Cmd
	nodes    []*exec.Cmd // the publisher first
}

// startStage starts all of it, and returns when the publisher is Ready.
func startStage(ctx context.Context, dir, upstream string) (s *stage, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd: run this by 'make bench'")
	}
	s = &stage{dir: dir, env: &envtest.Environment{CRDDirectoryPaths: []string{"config/crd"}, ErrorIfCRDPathMissing: true}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", dir, "./cmd/pyrsia", "./cmd/pyrsia-operator").CombinedOutput(); err != nil {
		return s, fmt.Errorf("building: %w: %s", err, out)
	}
	config, err := startAPIServer(s.env)
	if err != nil {
		return s, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return s, err
	}
	if s.Client, err = kube.New(config, kube.Options{Scheme: scheme}); err != nil {
		return s, err
	}
	if err := s.startOperator(ctx); err != nil {
		return s, err
	}
	publisher := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "publisher"}}
	publisher.Spec.Role = v1alpha1.RolePublisher
	publisher.Spec.Publisher = &v1alpha1.Publisher{Upstreams: []v1alpha1.Upstream{{Registry: "docker.io", Endpoint: upstream}}}
	return s, s.startNode(ctx, publisher)
}

// startAPIServer starts a real API server. In the network namespace in which this program
// runs when it measures the peer-to-peer network as well, the server finds no address to
// advertise, and it refuses those of loopback: it is told one for documentation (RFC 5737),
// which nobody asks.
func startAPIServer(env *envtest.Environment) (*rest.Config, error) {
	env.ControlPlane.GetAPIServer().Configure().Set("advertise-address", "192.0.2.1")
	return env.Start()
}

func (s *stage) startOperator(ctx context.Context) error {
	kubeconfig := filepath.Join(s.dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, s.env.KubeConfig, 0o600); err != nil {
		return err
	}
	addr, err := loopback.FreeAddr()
	if err != nil {
		return err
	}
	s.metrics = "http://" + addr + "/metrics"
	s.operator, err = s.run(ctx, "operator", "pyrsia-operator", "--kubeconfig", kubeconfig, "--namespace", "default", "--leader-elect=false",
		"--metrics-addr", addr, "--health-addr", "0", "--zap-log-level", "error")
	return err
}

// run starts a program that was built, with its log in the stage's folder.
func (s *stage) run(ctx context.Context, name, program string, args ...string) (*exec.Cmd, error) {
	out, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(s.dir, program), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// writes is how often the operator has written to the API server.
func (s *stage) writes(ctx context.Context) (total float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metrics, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	for _, m := range families["rest_client_requests_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "method" && l.GetValue() != http.MethodGet {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total, nil
}

// stop ends the processes that run.
func (s *stage) stop() error {
	for _, cmd := range append([]*exec.Cmd{s.operator}, s.nodes...) {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	return s.env.Stop()
}

// rssOf is the greatest memory that a process ever had, bytes.
func rssOf(cmd *exec.Cmd) (float64, error) { return processPeakRSS(strconv.Itoa(cmd.Process.Pid)) }

func ready(conditions []metav1.Condition) error {
	for _, c := range conditions {
		if c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("not Ready: %v", conditions)
}

// await waits until check has nothing to complain about.
func await(ctx context.Context, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("still after %s: %w", limit, err)
		}
	}
}
