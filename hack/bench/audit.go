package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

const (
	auditPods   = 5000
	auditImages = 800
	auditRounds = 5
	// auditWriters are the pods that are made in parallel.
	auditWriters = 16
)

func auditBenchmarks() []benchmark {
	return []benchmark{{rows: []string{"audit-5000", "audit-5000-rss"}, run: benchAudit}}
}

// benchAudit has the plugin of kubectl audit 5,000 pods with 800 images, by a real API
// server and a ledger on loopback, beside a client that does nothing but list the pods.
func benchAudit(ctx context.Context, dir string) (_ []row, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd: run this by 'make bench'")
	}
	plugin := filepath.Join(dir, "kubectl-pyrsia")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", plugin, "./cmd/kubectl-pyrsia").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building: %w: %s", err, out)
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"config/crd"}, ErrorIfCRDPathMissing: true}
	config, err := startAPIServer(env)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	config.QPS, config.Burst = -1, -1
	api, err := kube.New(config, kube.Options{})
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		return nil, err
	}
	w, vkey, err := auditLedger(ctx, filepath.Join(dir, "ledger"))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	node := httptest.NewServer(w.Handler())
	defer node.Close()
	if err := makePods(ctx, api); err != nil {
		return nil, err
	}
	var audits, lists []float64
	rss := 0.0
	for range auditRounds {
		cmd := exec.CommandContext(ctx, plugin, "audit", "-A", "--kubeconfig", kubeconfig, "--key", vkey, "--url", node.URL)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		audits = append(audits, time.Since(start).Seconds())
		if want := fmt.Sprintf("%d images in %d pods: %d unknown, %d vouched.", auditImages, auditPods, auditImages/20, auditImages-auditImages/20); err != nil || !strings.Contains(string(out), want) {
			return nil, fmt.Errorf("want %q: %w: %.2000s", want, err, out)
		}
		rss = max(rss, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)*1024/1e6)
		start = time.Now()
		if err := listPods(ctx, api); err != nil {
			return nil, err
		}
		lists = append(lists, time.Since(start).Seconds())
	}
	took, least := median(audits), median(lists)
	against := fmt.Sprintf("%d pods, %d images, their list alone: %.2f s", auditPods, auditImages, least)
	return []row{
		{Name: "audit-5000", Value: took, Unit: "s", Against: against, Ratio: took / least, target: "< 2 s"},
		{Name: "audit-5000-rss", Value: rss, Unit: "MB", Against: against, Ratio: rss / 150, target: "< 150 MB"},
	}, nil
}

// auditLedger is a ledger of the images that the pods run, but for one of 20.
func auditLedger(ctx context.Context, dir string) (*replica.Writer, string, error) {
	skey, vkey, err := ledger.GenerateKey("ledger.example/bench")
	if err != nil {
		return nil, "", err
	}
	w, err := replica.OpenWriter(ctx, dir, skey, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, "", err
	}
	var group errgroup.Group
	for i := range auditImages {
		if i%20 == 0 {
			continue
		}
		group.Go(func() error {
			name := auditImage(i)
			a := &ledger.AddArtifact{
				Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/" + name, Digest: digest.FromString(name), MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
				Pieces: digest.FromString(name + "/pieces"), Upstream: "registry.example", Time: time.Now().UTC().Truncate(time.Second),
			}
			for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"} {
				a.Platforms = append(a.Platforms, ledger.Platform{Platform: p, Digest: digest.FromString(name + p), Config: digest.FromString(name + p + "/config"), Size: 1})
			}
			_, err := w.Append(ctx, a)
			return err
		})
	}
	return w, vkey, group.Wait()
}

func auditImage(i int) string { return fmt.Sprintf("library/app-%d:%d", i/4, i%4) }

// makePods makes pods of three containers, as a kubelet reports them.
func makePods(ctx context.Context, api kube.Client) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(auditWriters)
	for i := range auditPods {
		group.Go(func() error {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("pod-", i), Labels: map[string]string{"app": fmt.Sprint(i)}}}
			p.Status.Phase = corev1.PodRunning
			for c := range 3 {
				image := auditImage((3*i + c) % auditImages)
				repository, _, _ := strings.Cut(image, ":")
				name := fmt.Sprint("c", c)
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: strings.TrimPrefix(image, "library/")})
				p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
					Name: name, Image: "docker.io/" + image, ImageID: "docker.io/" + repository + "@" + digest.FromString(image).String(),
				})
			}
			status := p.Status
			if err := api.Create(ctx, p); err != nil {
				return err
			}
			p.Status = status
			return api.Status().Update(ctx, p)
		})
	}
	return group.Wait()
}

// listPods is what no audit can do without.
func listPods(ctx context.Context, api kube.Client) error {
	var list corev1.PodList
	for {
		if err := api.List(ctx, &list, kube.Limit(500), kube.Continue(list.Continue)); err != nil || list.Continue == "" {
			return err
		}
	}
}
