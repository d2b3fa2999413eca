package v1alpha1

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

var (
	api        client.Client
	kubeConfig []byte
)

func TestMain(m *testing.M) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		os.Exit(m.Run()) // each test says why it skips
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../config/crd"}, ErrorIfCRDPathMissing: true}
	config, err := env.Start()
	if err == nil {
		kubeConfig = env.KubeConfig
		scheme := runtime.NewScheme()
		_ = AddToScheme(scheme) // cannot fail
		api, err = client.New(config, client.Options{Scheme: scheme})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the API server:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
	}
	os.Exit(code)
}

func needAPI(t *testing.T) {
	t.Helper()
	if api != nil {
		return
	}
	const reason = "KUBEBUILDER_ASSETS does not name the folder of kube-apiserver and etcd ('make test' does)"
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// check creates obj, dry, and compares the answer: "" is acceptance, else a
// part of the refusal.
func check(t *testing.T, obj client.Object, want string) {
	t.Helper()
	obj.SetNamespace("default")
	verdict(t, api.Create(t.Context(), obj, client.DryRunAll), want)
}

func verdict(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("accepted, want a refusal with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused with %v\nwant %q", err, want)
	}
}
