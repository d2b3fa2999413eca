package v1alpha1

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

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

func bucket(b Bucket) func(*PyrsiaNodeSpec) { return func(s *PyrsiaNodeSpec) { s.Storage.Bucket = &b } }

func generation(n int32) func(*PyrsiaNodeSpec) {
	return func(s *PyrsiaNodeSpec) { s.Publisher = &Publisher{KeyGeneration: n} }
}
