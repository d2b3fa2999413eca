package controllers

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

func node(role v1alpha1.Role, name string) *v1alpha1.PyrsiaNode {
	return &v1alpha1.PyrsiaNode{
		ObjectMeta: metav1.ObjectMeta{Namespace: "images", Name: name, UID: "0b9c5c1e-5d0f-4b0c-9f5b-1f6f3d1f2a3b"},
		Spec:       v1alpha1.PyrsiaNodeSpec{Role: role},
	}
}

// The desired objects are what they were: a change of them is a rollout.
func TestDesiredObjects(t *testing.T) {
	in := podInputs{
		image: "ghcr.io/pyrsia/pyrsia:v0.1.0", fingerprint: "0123456789abcdef",
		ledgerKey: "pyrsia.io/images/publisher/0b9c5c1e+f2a1b3c4+AQ==",
		bootstrap: []string{"/dns4/publisher.images.svc/tcp/4001/p2p/12D3KooWQYzXy"},
	}
	publisher := node(v1alpha1.RolePublisher, "publisher")
	full := node(v1alpha1.RolePublisher, "publisher")
	full.Spec.Image = "registry.example/pyrsia:v1"
	full.Spec.Storage = v1alpha1.Storage{Size: new(resource.MustParse("1Ti")), StorageClassName: new("fast")}
	full.Spec.Publisher = &v1alpha1.Publisher{
		SigningKeySecretRef: &v1alpha1.LocalReference{Name: "my-key"},
		Upstreams:           []v1alpha1.Upstream{{Registry: "docker.io", Endpoint: "https://registry-1.docker.io"}, {Registry: "ghcr.io", Endpoint: "https://ghcr.io"}},
	}
	full.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	full.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	full.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}

	mirror := node(v1alpha1.RoleMirror, "mirror")
	fallback := node(v1alpha1.RoleMirror, "mirror")
	fallback.Spec.CacheSize = new(resource.MustParse("1Gi"))
	fallback.Spec.Storage.HostPath = "/mnt/pyrsia"
	fallback.Spec.Mirror = &v1alpha1.Mirror{
		Registries: []string{"docker.io", "docker.example:5000"}, Port: 5002,
		Containerd: v1alpha1.ContainerdFallback, ContainerdConfigPath: "/etc/rancher/certs.d",
		Prefetch: []string{"alpine:*", "bitnami/*:*"},
	}
	unmanaged := node(v1alpha1.RoleMirror, "mirror")
	unmanaged.Spec.Mirror = &v1alpha1.Mirror{Containerd: v1alpha1.ContainerdUnmanaged}
	released := unmanaged.DeepCopy()
	released.Finalizers = []string{containerdFinalizer}

	for name, desired := range map[string]runtime.ApplyConfiguration{
		"publisher":         statefulSet(publisher, in),
		"publisher-full":    statefulSet(full, in),
		"publisher-service": service(publisher),
		"mirror":            daemonSet(mirror, in),
		"mirror-fallback":   daemonSet(fallback, in),
		"mirror-unmanaged":  daemonSet(unmanaged, in),
		"mirror-released":   daemonSet(released, in),
		"mirror-cleanup":    cleanupDaemonSet(fallback, in),
		"mirror-service":    service(mirror),
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, desired) })
	}
}

func golden(t *testing.T, name string, got any) {
	t.Helper()
	data, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(data)); diff != "" {
		t.Errorf("%s differs (-want +got); if that is intended, run go test -update:\n%s", file, diff)
	}
}
