package desired

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
)

var update = flag.Bool("update", false, "write the golden files")

// The desired objects are what they were: a change of them is a rollout.
func TestDesiredObjects(t *testing.T) {
	for name, desired := range desiredObjects() {
		t.Run(name, func(t *testing.T) { golden(t, name, desired) })
	}
}

func desiredObjects() map[string]any {
	in := Inputs{
		Image:     "ghcr.io/pyrsia/pyrsia:v0.1.0",
		Host:      HostClaim{Folder: "/var/lib/pyrsia/images_mirror", Port: 5001},
		LedgerKey: "pyrsia.io/images/publisher/0b9c5c1e+f2a1b3c4+AQ==",
		Bootstrap: []string{"http://publisher.images.svc:8080"},
		EveryNode: true,
	}
	old := in // of a mirror that v0.1.0 made, whose port has changed
	old.EveryNode, old.Former = false, []int32{5003, 5004}
	publisher := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	full := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	full.Spec.Image = "registry.example/pyrsia:v1"
	full.Spec.Storage = v1alpha1.Storage{Size: new(resource.MustParse("1Ti")), StorageClassName: new("fast")}
	full.Spec.Publisher = &v1alpha1.Publisher{
		SigningKeySecretRef: &v1alpha1.LocalReference{Name: "my-key"},
		Upstreams:           []v1alpha1.Upstream{{Registry: "docker.io", Endpoint: "https://registry-1.docker.io"}, {Registry: "ghcr.io", Endpoint: "https://ghcr.io", PrivateRepositories: []string{"team/*"}}},
	}
	full.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	full.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	full.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	full.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a", "b"}}}}},
	}}}
	full.Spec.PriorityClassName = "important"
	full.Spec.ImagePullSecrets = []v1alpha1.LocalReference{{Name: "registry-login"}}
	full.Spec.PodAnnotations = map[string]string{"example.com/logs": "json"}
	full.Spec.Bandwidth = &v1alpha1.Bandwidth{Upload: new(resource.MustParse("100Mi")), Download: new(resource.MustParse("50Mi")), PerPeer: new(resource.MustParse("10M"))}
	full.Spec.Publisher.RestoreFrom = &v1alpha1.RestoreFrom{MirrorRef: &v1alpha1.LocalReference{Name: "mirror"}, URLs: []string{"http://192.0.2.7:8080"}}
	full.Spec.Publisher.KeyGeneration, full.Status.KeyGeneration, full.Status.Ledger = 2, 1, &v1alpha1.LedgerStatus{}
	full.Spec.Publisher.Concurrency, full.Spec.Publisher.UpstreamBandwidth = 16, new(resource.MustParse("20Mi"))
	exposed := func(n *v1alpha1.PyrsiaNode, e v1alpha1.Exposure) *v1alpha1.PyrsiaNode {
		n.Spec.Network = &v1alpha1.Network{Exposure: &e}
		return n
	}
	atHost := exposed(fixtures.Node(v1alpha1.RoleMirror, "mirror"), v1alpha1.Exposure{Type: v1alpha1.ExposureHostPort, Port: 4002})
	balanced := exposed(fixtures.Node(v1alpha1.RolePublisher, "publisher"), v1alpha1.Exposure{
		Type: v1alpha1.ExposureLoadBalancer, Addresses: []string{"pyrsia.example.com", "2001:db8::7"}, ServiceAnnotations: map[string]string{"example.com/kind": "internal"},
	})
	atNodes := exposed(fixtures.Node(v1alpha1.RolePublisher, "publisher"), v1alpha1.Exposure{Type: v1alpha1.ExposureNodePort, Port: 30401})
	bucket := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	bucket.Spec.Storage.Bucket = &v1alpha1.Bucket{
		Name: "images", Prefix: "pyrsia/publisher", Endpoint: "https://s3.example:9000", Region: "eu-1",
		CredentialsSecretRef: &v1alpha1.LocalReference{Name: "s3"}, CASecretRef: &v1alpha1.LocalReference{Name: "s3-ca"},
	}
	outsideOf := func(o Outside) Inputs { in := in; in.Outside = o; return in }

	pulled := fixtures.Node(v1alpha1.RolePublisher, "publisher")
	pulled.Spec.Publisher = &v1alpha1.Publisher{OnPull: &v1alpha1.OnPull{Policy: v1alpha1.OnPullPublish, Allow: []string{"alpine:*"}, PerHour: 20}}

	mirror := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	fallback := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	fallback.Spec.CacheSize = new(resource.MustParse("1Gi"))
	fallback.Spec.Storage.HostPath = "/mnt/pyrsia"
	fallback.Spec.Mirror = &v1alpha1.Mirror{
		Registries: []string{"docker.io", "docker.example:5000"}, Port: 5002,
		Containerd: v1alpha1.ContainerdFallback, ContainerdConfigPath: "/etc/rancher/certs.d",
		Prefetch:     []string{"alpine:*", "bitnami/*:*"},
		MaxLedgerAge: &metav1.Duration{Duration: 90 * time.Minute}, MaxUnavailable: new(intstr.FromInt32(3)),
	}
	unmanaged := fixtures.Node(v1alpha1.RoleMirror, "mirror")
	unmanaged.Spec.Mirror = &v1alpha1.Mirror{Containerd: v1alpha1.ContainerdUnmanaged}
	deleted := fallback.DeepCopy()
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}

	return map[string]any{
		"control-secret":     ControlSecret(publisher, []byte("its own"), []byte("the operator's")),
		"signing-secret":     SigningSecret(publisher, 1, "a key"),
		"signing-secret-2":   SigningSecret(full, 2, "the next key"),
		"publisher":          StatefulSet(publisher, in),
		"publisher-full":     StatefulSet(full, in),
		"publisher-service":  Service(publisher),
		"publisher-bucket":   StatefulSet(bucket, in),
		"publisher-balanced": StatefulSet(balanced, outsideOf(Outside{Hosts: []string{"pyrsia.example.com", "2001:db8::7"}, Port: 4001})),
		"service-balancer":   ExposureService(balanced, Exposure(balanced)),
		"service-nodeport":   ExposureService(atNodes, Exposure(atNodes)),
		"mirror-hostport":    DaemonSet(atHost, outsideOf(Outside{Port: 4002})),
		"mirror":             DaemonSet(mirror, in),
		"mirror-fallback":    DaemonSet(fallback, in),
		"mirror-old":         DaemonSet(mirror, old),
		"mirror-unmanaged":   DaemonSet(unmanaged, in),
		"mirror-cleanup":     CleanupDaemonSet(deleted, in, Place{Path: "/etc/rancher/certs.d"}),
		"mirror-abandoned":   CleanupDaemonSet(mirror, in, Place{Path: "/etc/containerd/certs.d", Nodes: []string{"a", "b"}, Abandoned: true}),
		"mirror-other-path":  CleanupDaemonSet(mirror, in, Place{Path: "/etc/old", Nodes: []string{"a"}}),
		"mirror-service":     Service(mirror),
		"frontend":           FrontendDaemonSet(mirror, in),
		"frontend-fallback":  FrontendDaemonSet(fallback, in),
		"frontend-former":    FrontendDaemonSet(mirror, old),
		"on-pull":            StatefulSet(pulled, in),
		"on-pull-service":    Service(pulled),
	}
}

// Whatever this package makes is among the golden files.
func TestAllObjectsHaveGoldenFiles(t *testing.T) {
	made, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	test, err := os.ReadFile("desired_test.go")
	if err != nil {
		t.Fatal(err)
	}
	makes, found := regexp.MustCompile(`(?m)^func ([A-Z]\w*)\(n .*\) \*\w+\.\w*(ApplyConfiguration|Secret) \{$`), 0
	for _, file := range made {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range makes.FindAllStringSubmatch(string(source), -1) {
			found++
			if !strings.Contains(string(test), " "+match[1]+"(") {
				t.Errorf("%s makes an object of which there is no golden file", match[1])
			}
		}
	}
	if found < 7 {
		t.Errorf("only %d functions were found that make objects", found)
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
