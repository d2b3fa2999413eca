package attacks

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
	"github.com/pyrsia/pyrsia-operator/hack/demo/upstream"
	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
)

// Two teams share the machines. The first has a strict mirror on all of them; the
// second, whose mirrors an administrator allows too, wants the first one's pods to
// run what it has published.
func TestSecondMirror(t *testing.T) {
	s := &secondMirror{T: t, w: cluster(t)}
	t.Cleanup(s.end)
	s.begin()
	s.Log("a pod of namespace payments runs docker.io/library/hello:1")
	before := s.hello("before")
	s.Logf("  it says: %s", before)
	files := s.files()

	s.attack()
	during := s.hello("during")
	s.Logf("a new pod of namespace payments says: %s", during)
	if during != before {
		s.Error("  IT RUNS WHAT MALLORY HAS PUBLISHED")
	}
	s.compare("beside Mallory's mirror", files)

	s.Log("Mallory deletes his mirror")
	s.kubectl("-n", "mallory", "delete", "pyrsianode", "mirror", "--timeout=180s")
	s.compare("after Mallory's mirror has gone", files)
	s.Logf("the platform's mirror says of itself: %s", s.condition("platform", "mirror", "Ready"))
	if after := s.hello("after"); after != before {
		s.Errorf("  a pod says: %s", after)
	}

	s.narrow()
	s.replace()
}

type secondMirror struct {
	*testing.T
	w        *steps.Env
	host     string             // address of this machine in the cluster
	registry *upstream.Registry // Mallory's
	original map[string]string  // certs.d on each worker before all
}

func (s *secondMirror) kubectl(args ...string) string {
	s.Helper()
	return s.command(append([]string{"kubectl"}, args...)...)
}

func (s *secondMirror) command(argv ...string) string {
	s.Helper()
	out, err := s.w.Output(s.Context(), argv...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s *secondMirror) apply(as, yaml string) {
	s.Helper()
	eventually(s.T, 30*time.Second, func() error { // the policy learns of a namespace's label
		_, err := apply(s.T, s.w, as, yaml)
		return err
	})
}

func (s *secondMirror) condition(namespace, node, condition string) string {
	return s.kubectl("-n", namespace, "get", "pyrsianode", node, "-o", fmt.Sprintf(`jsonpath={range .status.conditions[?(@.type==%q)]}{.status} {.reason}: {.message}{end}`, condition))
}

// network is a publisher of Docker Hub's names from a registry, and a mirror.
func (s *secondMirror) network(namespace, endpoint, mirror string, port int) string {
	return fmt.Sprintf(`{apiVersion: pyrsia.io/v1alpha1, kind: PyrsiaNode, metadata: {name: publisher, namespace: %s}, spec: {role: Publisher,
  publisher: {upstreams: [{registry: docker.io, endpoint: "http://%s"}]}}}
---
%s`, namespace, endpoint, mirrorAt(namespace, mirror, port))
}

func mirrorAt(namespace, name string, port int) string {
	return fmt.Sprintf(`{apiVersion: pyrsia.io/v1alpha1, kind: PyrsiaNode, metadata: {name: %s, namespace: %s}, spec: {role: Mirror,
  network: {publisherRef: {name: publisher}}, mirror: {registries: [docker.io], containerd: Strict, port: %d}}}`, name, namespace, port)
}

func artifactOf(namespace, digest string) string {
	return fmt.Sprintf(`{apiVersion: pyrsia.io/v1alpha1, kind: Artifact, metadata: {name: hello, namespace: %s}, spec: {
  image: "docker.io/library/hello:1", digest: %q, publisherRef: {name: publisher}}}`, namespace, digest)
}

const namespaces = `
{apiVersion: v1, kind: Namespace, metadata: {name: platform, labels: {pyrsia.io/mirrors: allowed}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: mallory, labels: {pyrsia.io/mirrors: allowed}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: payments}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: mallory, namespace: mallory}
rules: [{apiGroups: [pyrsia.io], resources: [pyrsianodes, artifacts], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: mallory, namespace: mallory}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: mallory}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}]
`

// begin brings up the first team's mirror.
func (s *secondMirror) begin() {
	s.host, _, _ = net.SplitHostPort(s.w.RegistryAddr())
	s.original = s.files()
	s.Log("team platform has a publisher and a strict mirror on every worker; Mallory may create PyrsiaNodes and Artifacts in namespace mallory, and nothing else")
	s.apply("", namespaces)
	digest, err := remote.Head(s.image(s.w.RegistryAddr(), "hello"))
	if err != nil {
		s.Fatal(err)
	}
	s.apply("", s.network("platform", s.w.RegistryAddr(), "mirror", 5001)+"\n---\n"+artifactOf("platform", digest.Digest.String()))
	s.ready("pyrsianodes")
	s.ready("artifacts")
}

// ready waits until all of team platform's objects of a kind are.
func (s *secondMirror) ready(kind string) {
	s.Helper()
	eventually(s.T, 3*time.Minute, func() error {
		out, err := s.w.Output(s.Context(), "kubectl", "-n", "platform", "get", kind, "-o", `jsonpath={range .items[*]}{.metadata.name}: {range .status.conditions[*]}{.type}={.status} {.message}; {end}{"\n"}{end}`)
		if err != nil {
			return err // the API server may be busy
		}
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "; Ready=True") && !strings.Contains(line, ": Ready=True") {
				return fmt.Errorf("%s", line)
			}
		}
		return nil
	})
}

func (s *secondMirror) image(registry, repository string) name.Reference {
	s.Helper()
	ref, err := name.ParseReference(registry+"/library/"+repository+":1", name.Insecure)
	if err != nil {
		s.Fatal(err)
	}
	return ref
}

// attack has Mallory publish content of his own as hello:1, and start a mirror.
func (s *secondMirror) attack() {
	digest := s.evil()
	s.Log("Mallory applies a publisher whose upstream is a registry of his own, an Artifact that publishes his image as docker.io/library/hello:1, and a strict mirror on every worker, at another port")
	start := time.Now()
	s.apply("mallory", s.network("mallory", s.host+":5070", "mirror", 5002)+"\n---\n"+artifactOf("mallory", digest.String()))
	s.kubectl("-n", "mallory", "wait", "--for=condition=Published", "artifact/hello", "--timeout=120s")
	eventually(s.T, 2*time.Minute, func() error {
		said := s.condition("mallory", "mirror", "WorkloadReady")
		if hosts := s.hosts("w1"); strings.Contains(hosts, ":5002") {
			s.Errorf("  after %.0f s containerd on w1 asks Mallory's mirror", time.Since(start).Seconds())
			return nil
		}
		if strings.Contains(said, "RegistryTaken") {
			s.Logf("  after %.0f s his mirror is refused: %s", time.Since(start).Seconds(), said)
			return nil
		}
		return fmt.Errorf("his mirror: %s", said)
	})
	time.Sleep(10 * time.Second) // it would try again
}

// evil is Mallory's image, in his own registry.
func (s *secondMirror) evil() v1.Hash {
	program, err := rig.DockerRegistry()
	if err != nil {
		missing(s.T, "there is no docker-registry: "+err.Error())
	}
	if s.registry, err = upstream.Start(s.Context(), program, s.TempDir(), s.host+":5070"); err != nil {
		s.Fatal(err)
	}
	index, err := remote.Index(s.image(s.w.RegistryAddr(), "unpublished"))
	if err == nil {
		err = remote.WriteIndex(s.image(s.host+":5070", "hello"), index)
	}
	if err != nil {
		s.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		s.Fatal(err)
	}
	return digest
}

// hello runs a pod of another namespace, and returns what it says.
func (s *secondMirror) hello(pod string) string {
	s.Helper()
	s.kubectl("-n", "payments", "run", pod, "--image=docker.io/library/hello:1", "--image-pull-policy=Always", "--restart=Never", `--overrides={"spec":{"nodeName":"w1"}}`)
	said := ""
	eventually(s.T, 90*time.Second, func() error {
		out, err := s.w.Output(s.Context(), "kubectl", "-n", "payments", "get", "pod", pod, "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.message}")
		if err != nil || !strings.HasPrefix(out, "Succeeded") {
			return fmt.Errorf("%s %w", out, err)
		}
		said = s.kubectl("-n", "payments", "logs", pod)
		return nil
	})
	return said
}

func (s *secondMirror) onNode(node, script string) string {
	s.Helper()
	out, err := s.w.OnNode(s.Context(), node, "sh", "-c", script)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

func (s *secondMirror) hosts(node string) string {
	return s.onNode(node, "cat /etc/containerd/certs.d/docker.io/hosts.toml 2>/dev/null || true")
}

// files are those of certs.d that containerd reads, on each worker.
func (s *secondMirror) files() map[string]string {
	out := map[string]string{}
	for _, node := range []string{"w1", "w2"} {
		out[node] = s.onNode(node, `cd /etc/containerd/certs.d && find . -path ./.pyrsia-backup -prune -o -type f -printf '%m %U:%G %i %T@ ' -exec sha256sum {} \; | sort -k6`)
	}
	return out
}

func (s *secondMirror) compare(when string, want map[string]string) {
	s.Helper()
	for node, now := range s.files() {
		if now != want[node] {
			s.Errorf("  %s the platform's files on %s are not what they were:\n%s\n  they were:\n%s", when, node, now, want[node])
			continue
		}
		s.Logf("  %s the platform's files on %s are byte for byte what they were", when, node)
	}
}

// narrow takes the mirror off one machine, which must get its own set-up back.
func (s *secondMirror) narrow() {
	s.Log("team platform narrows its mirror to w1")
	s.kubectl("-n", "platform", "patch", "pyrsianode", "mirror", "--type=merge", "-p", `{"spec":{"nodeSelector":{"kubernetes.io/hostname":"w1"}}}`)
	start := time.Now()
	for ; time.Since(start) < time.Minute; time.Sleep(time.Second) {
		if s.files()["w2"] == s.original["w2"] {
			s.Logf("  after %.0f s containerd on w2 has its own set-up back", time.Since(start).Seconds())
			break
		}
	}
	if left := s.hosts("w2"); left != "" {
		s.Errorf("  a minute later containerd on w2 still asks a mirror that is gone, and nothing else:\n%s", left)
	}
	if !strings.Contains(s.hosts("w1"), ":5001") {
		s.Errorf("  and w1 is not strict any more: %s", s.hosts("w1"))
	}
	s.kubectl("-n", "platform", "patch", "pyrsianode", "mirror", "--type=merge", "-p", `{"spec":{"nodeSelector":null}}`)
	eventually(s.T, 2*time.Minute, func() error {
		if !strings.Contains(s.hosts("w2"), ":5001") {
			return fmt.Errorf("w2 has no mirror again")
		}
		return nil
	})
	s.ready("pyrsianodes")
}

// replace has one mirror take another's place, while w1 is watched for a moment
// at which its pulls would go around both.
func (s *secondMirror) replace() {
	s.Log("team platform replaces its mirror by one of another name, at another port")
	s.apply("", mirrorAt("platform", "successor", 5003))
	eventually(s.T, 2*time.Minute, func() error {
		if said := s.condition("platform", "successor", "WorkloadReady"); !strings.Contains(said, "RegistryTaken") && !strings.Contains(said, "PodsReady") {
			return fmt.Errorf("the successor: %s", said)
		}
		return nil
	})
	gaps := make(chan string, 1)
	go func() {
		out, err := s.w.OnNode(s.Context(), "w1", "sh", "-c", `rm -f /tmp/replaced; while ! [ -e /tmp/replaced ]; do grep -q '^server = "http://127.0.0.1:500' /etc/containerd/certs.d/docker.io/hosts.toml || date +%T; sleep 0.02; done`)
		gaps <- fmt.Sprint(out, errText(err))
	}()
	time.Sleep(time.Second)
	s.kubectl("-n", "platform", "delete", "pyrsianode", "mirror", "--timeout=180s")
	gone := time.Now()
	if hosts := s.hosts("w1"); !strings.Contains(hosts, ":5003") {
		s.Errorf("  containerd on w1 does not ask the successor: %s", hosts)
	}
	s.onNode("w1", "touch /tmp/replaced")
	if found := <-gaps; found != "" {
		s.Errorf("  there were moments at which containerd on w1 would have asked the registry itself:\n%s", found)
	} else {
		s.Log("  the first one's clean-up handed over: at no moment would containerd on w1 have asked the registry itself")
	}
	s.kubectl("-n", "platform", "wait", "--for=condition=Ready", "pyrsianode/successor", "--timeout=360s")
	s.Logf("  %.0f s later the successor is ready", time.Since(gone).Seconds())
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *secondMirror) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute) // the test's own has ended
	defer cancel()
	for _, ns := range []string{"mallory", "platform", "payments"} {
		_, _ = s.w.Output(ctx, "kubectl", "-n", ns, "delete", "pyrsianodes", "--all", "--timeout=120s")
		_, _ = s.w.Output(ctx, "kubectl", "delete", "namespace", ns, "--wait=false", "--ignore-not-found")
	}
	if s.registry != nil {
		_ = s.registry.Stop()
	}
}
