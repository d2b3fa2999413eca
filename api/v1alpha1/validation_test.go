package v1alpha1

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
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

const (
	goodKey  = "pyrsia.io/default/publisher/0b9c5c1e+f2a1b3c4+AQJ0aGlydHktdHdvIGJ5dGVzIG9mIGEgcHVibGljIGtl"
	goodPeer = "/dns4/publisher.example.com/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
)

func publisher(change ...func(*PyrsiaNodeSpec)) *PyrsiaNode {
	n := &PyrsiaNode{Spec: PyrsiaNodeSpec{Role: RolePublisher}}
	n.Name = "publisher"
	for _, c := range change {
		c(&n.Spec)
	}
	return n
}

func mirror(change ...func(*PyrsiaNodeSpec)) *PyrsiaNode {
	n := &PyrsiaNode{Spec: PyrsiaNodeSpec{Role: RoleMirror, Network: &Network{PublisherRef: &LocalReference{Name: "publisher"}}}}
	n.Name = "mirror"
	for _, c := range change {
		c(&n.Spec)
	}
	return n
}

func named(n *PyrsiaNode, name string) *PyrsiaNode { n.Name = name; return n }

func TestPyrsiaNodeIsValidated(t *testing.T) {
	needAPI(t)
	size := resource.MustParse("1Gi")
	byKey := func(key string, peers ...string) func(*PyrsiaNodeSpec) {
		return func(s *PyrsiaNodeSpec) { s.Network = &Network{LedgerKey: key, Bootstrap: peers} }
	}
	upstream := func(registry, endpoint string) func(*PyrsiaNodeSpec) {
		return func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{Upstreams: []Upstream{{Registry: registry, Endpoint: endpoint}}}
		}
	}
	exposure := func(e Exposure) func(*PyrsiaNodeSpec) {
		return func(s *PyrsiaNodeSpec) {
			if s.Network == nil {
				s.Network = &Network{}
			}
			s.Network.Exposure = &e
		}
	}
	for name, tc := range map[string]struct {
		obj  *PyrsiaNode
		want string
	}{
		"a publisher":     {publisher(), ""},
		"a mirror":        {mirror(), ""},
		"an unknown role": {publisher(func(s *PyrsiaNodeSpec) { s.Role = "Witness" }), `supported values: "Publisher", "Mirror"`},

		"a publisher that publishes":   {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{} }), ""},
		"a mirror that publishes":      {mirror(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{} }), "publisher is for role Publisher only"},
		"a mirror that mirrors":        {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Port: 5002} }), ""},
		"a publisher that mirrors":     {publisher(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{} }), "mirror is for role Mirror only"},
		"a mirror with a cache":        {mirror(func(s *PyrsiaNodeSpec) { s.CacheSize = &size }), ""},
		"a publisher with a cache":     {publisher(func(s *PyrsiaNodeSpec) { s.CacheSize = &size }), "cacheSize is for mirrors, and for publishers with a bucket"},
		"a mirror without a network":   {mirror(func(s *PyrsiaNodeSpec) { s.Network = nil }), "a mirror needs exactly one root of trust"},
		"a publisher with a network":   {publisher(byKey(goodKey, goodPeer)), "a publisher joins no network"},
		"a mirror on a host path":      {mirror(func(s *PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/x" }), ""},
		"a publisher on a host path":   {publisher(func(s *PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/x" }), "hostPath is for role Mirror only"},
		"a roll-out of one":            {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromInt32(1))} }), ""},
		"a roll-out of all":            {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromString("100%"))} }), ""},
		"a roll-out of none":           {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromInt32(0))} }), "maxUnavailable must be a number from 1"},
		"a roll-out of 0%":             {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromString("0%"))} }), "maxUnavailable must be a number from 1"},
		"a roll-out of 101%":           {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromString("101%"))} }), "maxUnavailable must be a number from 1"},
		"a roll-out of a word":         {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxUnavailable: new(intstr.FromString("some"))} }), "maxUnavailable must be a number from 1"},
		"a start-up taint":             {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{StartupTaint: true} }), ""},
		"one of an unmanaged mirror":   {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{StartupTaint: true, Containerd: ContainerdUnmanaged} }), "startupTaint needs containerd: Strict or Fallback"},
		"a host path that climbs":      {mirror(func(s *PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/../etc" }), "must not contain '..'"},
		"a publisher's storage class":  {publisher(func(s *PyrsiaNodeSpec) { s.Storage.StorageClassName = new("fast") }), ""},
		"a mirror's storage class":     {mirror(func(s *PyrsiaNodeSpec) { s.Storage.StorageClassName = new("fast") }), "storageClassName is for role Publisher only"},
		"a publisher's volume size":    {publisher(func(s *PyrsiaNodeSpec) { s.Storage.Size = &size }), ""},
		"a mirror's volume size":       {mirror(func(s *PyrsiaNodeSpec) { s.Storage.Size = &size }), "size is for role Publisher only"},
		"a network by key":             {mirror(byKey(goodKey, goodPeer)), ""},
		"no root of trust":             {mirror(func(s *PyrsiaNodeSpec) { s.Network = &Network{} }), "exactly one root of trust"},
		"two roots of trust":           {mirror(byKey(goodKey, goodPeer), func(s *PyrsiaNodeSpec) { s.Network.PublisherRef = &LocalReference{Name: "publisher"} }), "exactly one root of trust"},
		"a key without peers":          {mirror(byKey(goodKey)), "ledgerKey and bootstrap go together"},
		"a malformed key":              {mirror(byKey("not a key", goodPeer)), "spec.network.ledgerKey"},
		"a malformed peer":             {mirror(byKey(goodKey, "publisher.example.com:4001")), "spec.network.bootstrap"},
		"an upstream":                  {publisher(upstream("docker.io", "https://registry-1.docker.io")), ""},
		"an upstream on this machine":  {publisher(upstream("docker.io", "http://10.0.0.1:5000")), ""},
		"an upstream that is no URL":   {publisher(upstream("docker.io", "registry-1.docker.io")), "endpoint must be an http or https URL"},
		"an upstream over another way": {publisher(upstream("docker.io", "ftp://registry-1.docker.io")), "endpoint must be an http or https URL"},
		"credentials and a CA": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{Upstreams: []Upstream{{Registry: "docker.io", Endpoint: "https://registry-1.docker.io", CredentialsSecretRef: &LocalReference{Name: "login"}, CASecretRef: &LocalReference{Name: "ca"}}}}
		}), ""},
		"private repositories": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{Upstreams: []Upstream{{Registry: "ghcr.io", Endpoint: "https://ghcr.io", PrivateRepositories: []string{"team/*", "team/a_b.c-d"}}}}
		}), ""},
		"private repositories by a regular expression": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{Upstreams: []Upstream{{Registry: "ghcr.io", Endpoint: "https://ghcr.io", PrivateRepositories: []string{"team/[a-z]+"}}}}
		}), "privateRepositories"},
		"publication on pull": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{OnPull: &OnPull{Policy: OnPullPublish, Allow: []string{"alpine:*"}}}
		}), ""},
		"all publication on pull":       {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{OnPull: &OnPull{Policy: OnPullPublish}} }), "allow must name the images"},
		"a registry that is a URL":      {publisher(upstream("https://docker.io", "https://registry-1.docker.io")), "registry"},
		"a containerd path":             {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{ContainerdConfigPath: "/etc/rancher/certs.d"} }), ""},
		"a containerd path that climbs": {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{ContainerdConfigPath: "/etc/../root"} }), "must not contain '..'"},
		"all registries": {mirror(func(s *PyrsiaNodeSpec) {
			s.Mirror = &Mirror{Registries: []string{"_default"}, Containerd: ContainerdFallback}
		}), ""},
		"all registries, strictly": {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Registries: []string{"quay.io", "_default"}} }), "_default cannot be Strict"},
		"another folder than a registry": {mirror(func(s *PyrsiaNodeSpec) {
			s.Mirror = &Mirror{Registries: []string{"_defaults"}, Containerd: ContainerdFallback}
		}), "spec.mirror.registries"},
		"a distribution": {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Distribution: "K3s"} }), ""},
		"a distribution and a path": {mirror(func(s *PyrsiaNodeSpec) {
			s.Mirror = &Mirror{Distribution: "K3s", ContainerdConfigPath: "/etc/rancher/certs.d"}
		}), "leave containerdConfigPath out"},
		"an unknown distribution":        {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Distribution: "k3s"} }), "supported values"},
		"one that cannot be set up":      {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Distribution: "Talos", Containerd: ContainerdFallback} }), "set containerd: Unmanaged"},
		"one that is not set up":         {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Distribution: "Talos", Containerd: ContainerdUnmanaged} }), ""},
		"an unknown containerd mode":     {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Containerd: "Maybe"} }), "supported values"},
		"images to prefetch":             {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Prefetch: []string{"alpine:*", "ghcr.io/o/*:v1.?"}} }), ""},
		"no images to prefetch":          {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Prefetch: []string{""}} }), "spec.mirror.prefetch"},
		"a broken pattern":               {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Prefetch: []string{"alpine:["}} }), "spec.mirror.prefetch"},
		"a bound on the ledger's age":    {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxLedgerAge: &metav1.Duration{Duration: 5 * time.Minute}} }), ""},
		"a ledger of a minute":           {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{MaxLedgerAge: &metav1.Duration{Duration: time.Minute}} }), "maxLedgerAge must be 5m or longer"},
		"acknowledged alarms":            {mirror(func(s *PyrsiaNodeSpec) { s.AcknowledgedAt = new(metav1.Now()) }), ""},
		"a short pull history":           {mirror(func(s *PyrsiaNodeSpec) { s.PullHistory.MaxAge = &metav1.Duration{Duration: time.Hour} }), ""},
		"a pull history of a minute":     {mirror(func(s *PyrsiaNodeSpec) { s.PullHistory.MaxAge = &metav1.Duration{Duration: time.Minute} }), "maxAge must be 1h or longer"},
		"a pull history without end":     {mirror(func(s *PyrsiaNodeSpec) { s.PullHistory.Limit = new(int32(10001)) }), "spec.pullHistory.limit"},
		"a port out of range":            {mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{Port: 70000} }), "spec.mirror.port"},
		"a name that a Service can have": {named(publisher(), "publisher-2"), ""},
		"a name that is too long":        {named(publisher(), strings.Repeat("a", 41)), "at most 40"},
		"a name with a dot":              {named(publisher(), "a.b"), "at most 40"},

		"a publisher that is exposed":     {publisher(exposure(Exposure{Type: ExposureNodePort, Port: 30401})), ""},
		"exposure by a chosen port":       {publisher(exposure(Exposure{Type: ExposureNodePort})), ""},
		"a node port out of range":        {publisher(exposure(Exposure{Type: ExposureNodePort, Port: 4001})), "30000 to 32767"},
		"a load balancer":                 {publisher(exposure(Exposure{Type: ExposureLoadBalancer, ServiceAnnotations: map[string]string{"a": "b"}, Addresses: []string{"pyrsia.example.com", "2001:db8::1"}})), ""},
		"annotations of no load balancer": {publisher(exposure(Exposure{Type: ExposureHostPort, ServiceAnnotations: map[string]string{"a": "b"}})), "are for type LoadBalancer"},
		"an address with a port":          {publisher(exposure(Exposure{Type: ExposureHostPort, Addresses: []string{"pyrsia.example.com/4001"}})), "addresses"},
		"an unknown exposure":             {publisher(exposure(Exposure{Type: "Ingress"})), "supported values"},
		"a mirror that is exposed":        {mirror(exposure(Exposure{Type: ExposureHostPort})), ""},
		"mirrors behind one address":      {mirror(exposure(Exposure{Type: ExposureLoadBalancer})), "exposed by HostPort alone"},
		"mirrors with one name":           {mirror(exposure(Exposure{Type: ExposureHostPort, Addresses: []string{"a.example"}})), "exposed by HostPort alone"},
		"a bucket":                        {publisher(bucket(Bucket{Name: "images", Prefix: "a/b", Endpoint: "https://s3.example:9000", Region: "eu-1", CASecretRef: &LocalReference{Name: "ca"}})), ""},
		"a bucket at an IPv6 address":     {publisher(bucket(Bucket{Name: "images", Endpoint: "http://[fd00:10::7]:9000"})), ""},
		"a bucket at no IPv6 address":     {publisher(bucket(Bucket{Name: "images", Endpoint: "http://fd00:10::7"})), "bucket.endpoint"},
		"an upstream at an IPv6 address":  {publisher(upstream("registry.example", "http://[fd00:10::7]:5000")), ""},
		"peers by IPv6 and by name":       {mirror(byKey(goodKey, strings.Replace(goodPeer, "dns4/publisher.example.com", "ip6/2001:db8::7", 1), strings.Replace(goodPeer, "dns4", "dns", 1))), ""},
		"a copy at an IPv6 address": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{RestoreFrom: &RestoreFrom{URLs: []string{"http://[2001:db8::7]:8080"}}}
		}), ""},
		"a bucket and a cache":       {publisher(bucket(Bucket{Name: "images"}), func(s *PyrsiaNodeSpec) { s.CacheSize = &size }), ""},
		"a mirror's bucket":          {mirror(bucket(Bucket{Name: "images"})), "bucket is for role Publisher only"},
		"a bucket's URL as its name": {publisher(bucket(Bucket{Name: "s3://images"})), "bucket.name"},
		"a bucket at no URL":         {publisher(bucket(Bucket{Name: "images", Endpoint: "s3.example"})), "bucket.endpoint"},
		"a bucket behind a path":     {publisher(bucket(Bucket{Name: "images", Endpoint: "https://s3.example/api"})), "bucket.endpoint"},
		"a prefix that climbs":       {publisher(bucket(Bucket{Name: "images", Prefix: "x/../y"})), "bucket.prefix"},
		"a restored publisher": {publisher(func(s *PyrsiaNodeSpec) {
			s.Publisher = &Publisher{RestoreFrom: &RestoreFrom{MirrorRef: &LocalReference{Name: "mirror"}, URLs: []string{"http://192.0.2.7:8080"}}}
		}), ""},
		"restored from nowhere":          {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{RestoreFrom: &RestoreFrom{}} }), "give mirrorRef, urls, or both"},
		"a publisher that had many keys": {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{KeyGeneration: 7} }), ""},
		"bandwidth": {publisher(func(s *PyrsiaNodeSpec) {
			s.Bandwidth = &Bandwidth{Upload: new(resource.MustParse("100Mi")), Download: &size}
		}), ""},
		"no bandwidth":                {publisher(func(s *PyrsiaNodeSpec) { s.Bandwidth = &Bandwidth{Upload: new(resource.MustParse("0"))} }), "upload must be 128Ki or more"},
		"less than no bandwidth":      {mirror(func(s *PyrsiaNodeSpec) { s.Bandwidth = &Bandwidth{PerPeer: new(resource.MustParse("-1"))} }), "perPeer must be 128Ki or more"},
		"a publisher's concurrency":   {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{Concurrency: 16, UpstreamBandwidth: &size} }), ""},
		"too much concurrency":        {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{Concurrency: 1000} }), "concurrency"},
		"no bandwidth from upstreams": {publisher(func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{UpstreamBandwidth: new(resource.MustParse("1"))} }), "upstreamBandwidth must be"},
		"pods as the user wants them": {mirror(func(s *PyrsiaNodeSpec) {
			s.PriorityClassName, s.PodAnnotations = "system-node-critical", map[string]string{"a": "b"}
			s.ImagePullSecrets = []LocalReference{{Name: "login"}}
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		}), ""},
		"the same pull secret twice": {mirror(func(s *PyrsiaNodeSpec) { s.ImagePullSecrets = []LocalReference{{Name: "a"}, {Name: "a"}} }), "Duplicate value"},
	} {
		t.Run(name, func(t *testing.T) { check(t, tc.obj, tc.want) })
	}
}

func imageSet(change ...func(*OfficialImageSetSpec)) *OfficialImageSet {
	s := &OfficialImageSet{Spec: OfficialImageSetSpec{
		PublisherRef: LocalReference{Name: "publisher"},
		Images:       []ImageTags{{Repository: "alpine", Tags: []string{"3.20"}}},
	}}
	s.Name = "images"
	for _, c := range change {
		c(&s.Spec)
	}
	return s
}

func TestOfficialImageSetIsValidated(t *testing.T) {
	needAPI(t)
	interval := func(d time.Duration) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Interval = &metav1.Duration{Duration: d} }
	}
	images := func(images ...ImageTags) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Images = images }
	}
	catalog := func(a *CatalogArchive, hub *CatalogDockerHub) func(*OfficialImageSetSpec) {
		return func(s *OfficialImageSetSpec) { s.Catalog = &Catalog{Archive: a, DockerHub: hub} }
	}
	for name, tc := range map[string]struct {
		obj  *OfficialImageSet
		want string
	}{
		"a set":                {imageSet(), ""},
		"no images":            {imageSet(images()), "give images, catalog, or both"},
		"a rule":               {imageSet(images(ImageTags{Repository: "alpine", TagRules: TagRules{Semver: ">=3", Regexp: ".*", Newest: 3, Exclude: []string{"*-rc*"}}})), ""},
		"neither tag nor rule": {imageSet(images(ImageTags{Repository: "alpine"})), "give tags, or a rule that finds them"},
		"no rule but exclude":  {imageSet(images(ImageTags{Repository: "alpine", TagRules: TagRules{Exclude: []string{"*"}}})), "give tags, or a rule that finds them"},
		"an archive":           {imageSet(images(), catalog(&CatalogArchive{URL: "https://example.com/x.tar.gz", SHA256: strings.Repeat("0", 64)}, nil)), ""},
		"an unreviewed one":    {imageSet(images(), catalog(&CatalogArchive{URL: "https://example.com/x.tar.gz", SHA256: "0"}, nil)), "sha256"},
		"an archive on a disk": {imageSet(images(), catalog(&CatalogArchive{URL: "file:///etc/passwd", SHA256: strings.Repeat("0", 64)}, nil)), "url must be an http or https URL"},
		"Docker Hub":           {imageSet(images(), catalog(nil, &CatalogDockerHub{TagRules: TagRules{Newest: 2}})), ""},
		"all of Docker Hub":    {imageSet(images(), catalog(nil, &CatalogDockerHub{})), "give a rule"},
		"Docker Hub elsewhere": {imageSet(images(), catalog(nil, &CatalogDockerHub{Endpoint: "hub", TagRules: TagRules{Newest: 2}})), "endpoint must be an http or https URL"},
		"an empty catalog":     {imageSet(catalog(nil, nil)), "exactly one of archive and dockerHub"},
		"two catalogs":         {imageSet(catalog(&CatalogArchive{URL: "https://example.com/", SHA256: strings.Repeat("0", 64)}, &CatalogDockerHub{TagRules: TagRules{Newest: 2}})), "exactly one of archive and dockerHub"},
		"platforms":            {imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"linux/amd64", "linux/arm/v7", "windows/amd64"} }), ""},
		"half a platform":      {imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"amd64"} }), "platforms"},
		"an unknown mode":      {imageSet(func(s *OfficialImageSetSpec) { s.Mode = "Maybe" }), "supported values"},
		"an unknown deletion":  {imageSet(func(s *OfficialImageSetSpec) { s.DeletionPolicy = "Shred" }), "supported values"},
		"all ways to name one": {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1"}}, ImageTags{Repository: "library/alpine", Tags: []string{"1"}}, ImageTags{Repository: "docker.io/library/a_b", Tags: []string{"RC-1_x"}}, ImageTags{Repository: "localhost:5000/a", Tags: []string{"1"}})), ""},
		"the same twice":       {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1"}}, ImageTags{Repository: "alpine", Tags: []string{"2"}})), "Duplicate value"},
		"a tag twice":          {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"1", "1"}})), "Duplicate value"},
		"a tag in the name":    {imageSet(images(ImageTags{Repository: "alpine:1", Tags: []string{"1"}})), "repository"},
		"capitals":             {imageSet(images(ImageTags{Repository: "Alpine", Tags: []string{"1"}})), "repository"},
		"a digest as a tag":    {imageSet(images(ImageTags{Repository: "alpine", Tags: []string{"sha256:0"}})), "tags"},
		"a short interval":     {imageSet(interval(10 * time.Second)), ""},
		"too short a one":      {imageSet(interval(9 * time.Second)), "10s or longer"},
	} {
		t.Run(name, func(t *testing.T) { check(t, tc.obj, tc.want) })
	}
}

func artifact(image, digest string, change ...func(*ArtifactSpec)) *Artifact {
	a := &Artifact{Spec: ArtifactSpec{Image: image, Digest: digest, PublisherRef: LocalReference{Name: "publisher"}}}
	a.Name = "artifact"
	for _, c := range change {
		c(&a.Spec)
	}
	return a
}

func lookedUp(change ...func(*ArtifactSpec)) *Artifact {
	a := artifact("docker.io/library/alpine:3.20", goodDigest)
	a.Spec.PublisherRef, a.Spec.NodeRef = LocalReference{}, LocalReference{Name: "mirror"}
	for _, c := range change {
		c(&a.Spec)
	}
	return a
}

func revoked(reason string) *Artifact {
	a := published(reason)
	a.Spec.State = StateRevoked
	return a
}

func published(reason string) *Artifact {
	a := artifact("docker.io/library/alpine:3.20", goodDigest)
	a.Spec.Reason = reason
	return a
}

var goodDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestArtifactIsValidated(t *testing.T) {
	needAPI(t)
	for name, tc := range map[string]struct {
		obj  *Artifact
		want string
	}{
		"an artifact":              {artifact("docker.io/library/alpine:3.20", goodDigest), ""},
		"another registry":         {artifact("localhost:5000/alpine:3.20", goodDigest), ""},
		"a short name":             {artifact("alpine:3.20", goodDigest), "spec.image"},
		"no library":               {artifact("docker.io/alpine:3.20", goodDigest), "official images are in library/"},
		"no tag":                   {artifact("docker.io/library/alpine", goodDigest), "spec.image"},
		"a digest in the name":     {artifact("docker.io/library/alpine:3.20@"+goodDigest, goodDigest), "spec.image"},
		"a digest of another kind": {artifact("docker.io/library/alpine:3.20", "sha512:00"), "spec.digest"},
		"looked up":                {lookedUp(), ""},
		"published and looked up":  {lookedUp(func(s *ArtifactSpec) { s.PublisherRef.Name = "publisher" }), "exactly one of publisherRef"},
		"neither":                  {lookedUp(func(s *ArtifactSpec) { s.NodeRef = LocalReference{} }), "exactly one of publisherRef"},
		"looked up by platform":    {lookedUp(func(s *ArtifactSpec) { s.Platforms = []string{"linux/amd64"} }), "platforms is for images that are published"},
		"a pinned tag":             {artifact("docker.io/library/alpine:3.20", goodDigest, func(s *ArtifactSpec) { s.Pinned = true }), ""},
		"looked up and pinned":     {lookedUp(func(s *ArtifactSpec) { s.Pinned = true }), "pinned is for images that are published"},
		"looked up and revoked":    {lookedUp(func(s *ArtifactSpec) { s.State, s.Reason = StateRevoked, "no" }), "only the Artifact that published an image"},
		"a revocation":             {revoked("it has a backdoor"), ""},
		"a revocation, no reason":  {revoked(""), "give a reason if, and only if"},
		"a reason of two lines":    {revoked("it has\na backdoor"), "one line"},
		"a reason without need":    {published("it is fine"), "give a reason if, and only if"},
	} {
		t.Run(name, func(t *testing.T) { check(t, tc.obj, tc.want) })
	}
}

func bucket(b Bucket) func(*PyrsiaNodeSpec) { return func(s *PyrsiaNodeSpec) { s.Storage.Bucket = &b } }

func generation(n int32) func(*PyrsiaNodeSpec) {
	return func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{KeyGeneration: n} }
}

// What must not change cannot be changed, and what may can.
func TestUpdatesAreValidated(t *testing.T) {
	needAPI(t)
	type node = PyrsiaNode
	nodeCase := func(n *node, change func(*PyrsiaNodeSpec)) (client.Object, func()) {
		return n, func() { change(&n.Spec) }
	}
	for name, tc := range map[string]struct {
		make func() (client.Object, func())
		want string
	}{
		"a node's image": {func() (client.Object, func()) {
			return nodeCase(publisher(), func(s *PyrsiaNodeSpec) { s.Image = "example.com/pyrsia:v2" })
		}, ""},
		"a node's role": {func() (client.Object, func()) {
			return nodeCase(mirror(), func(s *PyrsiaNodeSpec) { s.Role, s.Network = RolePublisher, nil })
		}, "role cannot be changed"},
		"a publisher's storage": {func() (client.Object, func()) {
			return nodeCase(publisher(), func(s *PyrsiaNodeSpec) { s.Storage.Size = new(resource.MustParse("2Ti")) })
		}, "the volume of a publisher cannot be changed"},
		"a bucket that came later": {func() (client.Object, func()) {
			return nodeCase(publisher(), bucket(Bucket{Name: "images"}))
		}, ""},
		"a bucket's credentials": {func() (client.Object, func()) {
			return nodeCase(publisher(bucket(Bucket{Name: "images"})), bucket(Bucket{Name: "images", CredentialsSecretRef: &LocalReference{Name: "s3"}}))
		}, ""},
		"a bucket that is taken away": {func() (client.Object, func()) {
			return nodeCase(publisher(bucket(Bucket{Name: "images"})), func(s *PyrsiaNodeSpec) { s.Storage.Bucket = nil })
		}, "a bucket cannot be taken away"},
		"a first rotation": {func() (client.Object, func()) {
			return nodeCase(publisher(), func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{KeyGeneration: 2} })
		}, ""},
		"a rotation": {func() (client.Object, func()) {
			return nodeCase(publisher(generation(6)), generation(7))
		}, ""},
		"two rotations at once": {func() (client.Object, func()) {
			return nodeCase(publisher(generation(6)), generation(8))
		}, "keyGeneration can only be raised, by one"},
		"a rotation taken back": {func() (client.Object, func()) {
			return nodeCase(publisher(generation(6)), generation(5))
		}, "keyGeneration can only be raised, by one"},
		"a rotation forgotten": {func() (client.Object, func()) {
			return nodeCase(publisher(generation(2)), func(s *PyrsiaNodeSpec) { s.Publisher = nil })
		}, "keyGeneration can only be raised, by one"},
		"a mirror's storage": {func() (client.Object, func()) {
			return nodeCase(mirror(), func(s *PyrsiaNodeSpec) { s.Storage.HostPath = "/mnt/x" })
		}, ""},
		"a set's images": {func() (client.Object, func()) {
			s := imageSet()
			return s, func() { s.Spec.Images[0].Tags = []string{"3.21"} }
		}, ""},
		"a set's publisher": {func() (client.Object, func()) {
			s := imageSet()
			return s, func() { s.Spec.PublisherRef.Name = "other" }
		}, "publisherRef cannot be changed"},
		"a set's platforms": {func() (client.Object, func()) {
			s := imageSet(func(s *OfficialImageSetSpec) { s.Platforms = []string{"linux/amd64"} })
			return s, func() { s.Spec.Platforms = append(s.Spec.Platforms, "linux/arm64") }
		}, "platforms cannot be changed"},
		"a set's platforms, first": {func() (client.Object, func()) {
			s := imageSet()
			return s, func() { s.Spec.Platforms = []string{"linux/arm64"} }
		}, "platforms cannot be changed"},
		"an artifact's revocation": {func() (client.Object, func()) {
			a := published("")
			return a, func() { a.Spec.State, a.Spec.Reason = StateRevoked, "it has a backdoor" }
		}, ""},
		"a revocation taken back": {func() (client.Object, func()) {
			a := revoked("it has a backdoor")
			return a, func() { a.Spec.State, a.Spec.Reason = StatePublished, "" }
		}, "stays so until it is Restored"},
		"a restoration": {func() (client.Object, func()) {
			a := revoked("it has a backdoor")
			return a, func() { a.Spec.State, a.Spec.Reason = StateRestored, "a false alarm" }
		}, ""},
		"a restoration without a reason": {func() (client.Object, func()) {
			a := revoked("it has a backdoor")
			return a, func() { a.Spec.State, a.Spec.Reason = StateRestored, "" }
		}, "give a reason if, and only if"},
		"a restoration of what another one revoked": {func() (client.Object, func()) {
			a := published("")
			return a, func() { a.Spec.State, a.Spec.Reason = StateRestored, "a false alarm" }
		}, ""},
		"a revocation's reason": {func() (client.Object, func()) {
			a := revoked("it has a backdoor")
			return a, func() { a.Spec.Reason = "it has none" }
		}, "the reason is on the ledger for good"},
		"an artifact's labels": {func() (client.Object, func()) {
			a := artifact("docker.io/library/alpine:3.20", goodDigest)
			return a, func() { a.Labels = map[string]string{"a": "b"} }
		}, ""},
		"an artifact's node": {func() (client.Object, func()) {
			a := lookedUp()
			return a, func() { a.Spec.NodeRef.Name = "another" }
		}, "an Artifact cannot be changed"},
		"a lookup that is to publish": {func() (client.Object, func()) {
			a := lookedUp()
			return a, func() { a.Spec.NodeRef, a.Spec.PublisherRef = LocalReference{}, LocalReference{Name: "publisher"} }
		}, "an Artifact cannot be changed"},
		"an artifact's pin": {func() (client.Object, func()) {
			a := artifact("docker.io/library/alpine:3.20", goodDigest)
			return a, func() { a.Spec.Pinned = true }
		}, "an Artifact cannot be changed"},
		"a pin taken back": {func() (client.Object, func()) {
			a := artifact("docker.io/library/alpine:3.20", goodDigest, func(s *ArtifactSpec) { s.Pinned = true })
			return a, func() { a.Spec.Pinned = false }
		}, "an Artifact cannot be changed"},
		"a pinned artifact's revocation": {func() (client.Object, func()) {
			a := artifact("docker.io/library/alpine:3.20", goodDigest, func(s *ArtifactSpec) { s.Pinned = true })
			return a, func() { a.Spec.State, a.Spec.Reason = StateRevoked, "it has a backdoor" }
		}, ""},
		"an artifact's tag": {func() (client.Object, func()) {
			a := artifact("docker.io/library/alpine:3.20", goodDigest)
			return a, func() { a.Spec.Image = "docker.io/library/alpine:3.21" }
		}, "an Artifact cannot be changed"},
	} {
		t.Run(name, func(t *testing.T) {
			obj, change := tc.make()
			obj.SetNamespace("default")
			if err := api.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
			change()
			verdict(t, api.Update(t.Context(), obj), tc.want)
			if err := api.Delete(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The status of a new object says that nobody has looked at it yet.
func TestDefaults(t *testing.T) {
	needAPI(t)
	n, s := mirror(func(s *PyrsiaNodeSpec) { s.Mirror = &Mirror{} }), imageSet()
	for _, obj := range []client.Object{n, s} {
		check(t, obj, "")
	}
	if n.Status.ObservedGeneration != -1 || s.Status.ObservedGeneration != -1 {
		t.Errorf("observedGeneration is %d and %d, want -1", n.Status.ObservedGeneration, s.Status.ObservedGeneration)
	}
	m := n.Spec.Mirror
	if m.Port != 5001 || m.Containerd != ContainerdStrict || m.ContainerdConfigPath != "/etc/containerd/certs.d" || len(m.Registries) != 1 {
		t.Errorf("the mirror's defaults are %+v", m)
	}
	if h := n.Spec.PullHistory; *h.Limit != 1000 || h.MaxAge.Duration != 720*time.Hour {
		t.Errorf("the pull history's defaults are %d, %s", *h.Limit, h.MaxAge.Duration)
	}
	if s.Spec.Interval.Duration != time.Hour || *s.Spec.HistoryLimit != 3 {
		t.Errorf("the set's defaults are %v, %d", s.Spec.Interval, *s.Spec.HistoryLimit)
	}
}
