package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/upstreamtest"
)

const (
	operatorArtifacts = 500
	settleFor         = 20 * time.Second
	steadyFor         = time.Minute
)

func operatorBenchmarks() []benchmark {
	return []benchmark{{rows: []string{"operator-idle-writes", "operator-rss", "operator-cpu"}, run: benchOperator}}
}

// benchOperator runs the operator's program against a real API server, with a
// publisher and two mirrors in processes of their own, until 500 Artifacts are
// Ready, and then looks at a minute in which nothing changes.
func benchOperator(ctx context.Context, dir string) (_ []row, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd: run this by 'make bench'")
	}
	b := &operatorBench{dir: dir}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	upstream := httptest.NewServer(manyTags(operatorArtifacts))
	defer upstream.Close()
	if err := b.publish(ctx, upstream.URL); err != nil {
		return nil, err
	}
	time.Sleep(settleFor)
	return b.steady(ctx)
}

// manyTags is a registry with so many tags of one repository.
func manyTags(n int) *upstreamtest.Registry {
	r := upstreamtest.New()
	for i := range n {
		name := fmt.Sprint("image ", i)
		r.Tag("library/app", fmt.Sprint(i), r.AddIndex(r.AddImage(upstreamtest.OfficialPlatform("amd64"), name, []byte(name))))
	}
	return r
}

type operatorBench struct {
	dir      string
	env      *envtest.Environment
	config   *rest.Config
	client   kube.Client
	operator *exec.Cmd
	nodes    []*exec.Cmd
}

// start starts the API server and the operator.
func (b *operatorBench) start(ctx context.Context) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	b.env = &envtest.Environment{CRDDirectoryPaths: []string{"config/crd"}, ErrorIfCRDPathMissing: true}
	var err error
	if b.config, err = b.env.Start(); err != nil {
		return fmt.Errorf("starting the API server: %w", err)
	}
	if b.client, err = kube.New(b.config, kube.Options{Scheme: scheme}); err != nil {
		return err
	}
	admin, err := b.env.AddUser(envtest.User{Name: "operator", Groups: []string{"system:masters"}}, b.config)
	if err != nil {
		return err
	}
	kubeconfig, err := admin.KubeConfig()
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pyrsia-system"}}
	if err := b.client.Create(ctx, ns); err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(os.Getenv("PYRSIA_BINARY")), "pyrsia-operator")
	b.operator = exec.CommandContext(ctx, program, "--namespace", "pyrsia-system", "--metrics-addr", "0", "--health-addr", "0", "--kubeconfig", file)
	return b.begin(b.operator, "operator")
}

// begin starts a program whose output goes to a file.
func (b *operatorBench) begin(cmd *exec.Cmd, name string) error {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Start()
}

// publish brings all to the steady state.
func (b *operatorBench) publish(ctx context.Context, upstream string) error {
	publisher := benchNode("publisher", v1alpha1.RolePublisher)
	publisher.Spec.Publisher = &v1alpha1.Publisher{Upstreams: []v1alpha1.Upstream{{Registry: "docker.io", Endpoint: upstream}}}
	mirrors := []*v1alpha1.PyrsiaNode{benchNode("mirror-1", v1alpha1.RoleMirror), benchNode("mirror-2", v1alpha1.RoleMirror)}
	var tags []string
	for i := range operatorArtifacts {
		tags = append(tags, fmt.Sprint(i))
	}
	var images []v1alpha1.ImageTags
	for chunk := range slices.Chunk(tags, 100) {
		images = append(images, v1alpha1.ImageTags{Repository: "app", Tags: chunk})
	}
	for i, image := range images {
		set := &v1alpha1.OfficialImageSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("images-", i)},
			Spec: v1alpha1.OfficialImageSetSpec{PublisherRef: v1alpha1.LocalReference{Name: "publisher"},
				Images: []v1alpha1.ImageTags{image}, Interval: &metav1.Duration{Duration: time.Hour}},
		}
		if err := b.client.Create(ctx, set); err != nil {
			return err
		}
	}
	for i, n := range append([]*v1alpha1.PyrsiaNode{publisher}, mirrors...) {
		if err := b.client.Create(ctx, n); err != nil {
			return err
		}
		if err := b.runPod(ctx, n, fmt.Sprintf("127.0.3.%d", i+1)); err != nil {
			return err
		}
	}
	return waitFor(ctx, 8*time.Minute, func() error {
		list := new(v1alpha1.ArtifactList)
		if err := b.client.List(ctx, list); err != nil {
			return err
		}
		ready := 0
		for _, a := range list.Items {
			if meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionReady) {
				ready++
			}
		}
		if ready != operatorArtifacts {
			return fmt.Errorf("%d of %d Artifacts are ready", ready, operatorArtifacts)
		}
		return nil
	})
}

func benchNode(name string, role v1alpha1.Role) *v1alpha1.PyrsiaNode {
	n := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1alpha1.PyrsiaNodeSpec{Role: role}}
	if role == v1alpha1.RoleMirror {
		n.Spec.Network = &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
	}
	return n
}

func waitFor(ctx context.Context, patience time.Duration, check func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		err := check()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if time.Now().After(end) {
			return fmt.Errorf("still after %s: %w", patience, err)
		}
	}
}

// steady measures a minute in which nothing changes.
func (b *operatorBench) steady(ctx context.Context) ([]row, error) {
	pid := b.operator.Process.Pid
	writes, err1 := b.writes(ctx)
	used, err2 := cpu(pid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	time.Sleep(steadyFor)
	after, err1 := b.writes(ctx)
	usedAfter, err2 := cpu(pid)
	rss, err3 := memoryOf(pid, "VmRSS:")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	const against = "3 PyrsiaNodes, 500 Artifacts, a steady minute"
	perMinute := after - writes
	percent := (usedAfter - used) / steadyFor.Seconds() * 100
	return []row{
		{"operator-idle-writes", perMinute, "per minute", against + "; renewals of the Lease aside", perMinute, "0"},
		{"operator-rss", rss / 1e6, "MB", against, rss / 1e6 / 80, "< 80 MB"},
		{"operator-cpu", percent, "% of a core", against, percent, "< 1 %"},
	}, nil
}

// writes counts the API server's write requests, but for Leases.
func (b *operatorBench) writes(ctx context.Context) (total float64, err error) {
	c, err := rest.UnversionedRESTClientFor(unversioned(b.config))
	if err != nil {
		return 0, err
	}
	text, err := c.Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || strings.Contains(line, `resource="leases"`) ||
			!slices.ContainsFunc([]string{"APPLY", "DELETE", "PATCH", "POST", "PUT"}, func(verb string) bool { return strings.Contains(line, `verb="`+verb+`"`) }) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// memoryOf is a line of a process's status, bytes.
func memoryOf(pid int, line string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte(line))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("no %s in the status of process %d", line, pid)
	}
	kib, err := strconv.Atoi(string(fields[0]))
	return float64(kib) * 1024, err
}

func (b *operatorBench) close() error {
	for _, cmd := range append(b.nodes, b.operator) {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	if b.env == nil {
		return nil
	}
	return b.env.Stop()
}
