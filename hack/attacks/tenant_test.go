package attacks

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// tenantRights are all that the attacker may do: PyrsiaNodes in one namespace. He
// may not create pods, read Secrets or label his namespace.
const tenantRights = `
apiVersion: v1
kind: Namespace
metadata: {name: tenant-a}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: tenant-a}
rules: [{apiGroups: [pyrsia.io], resources: [pyrsianodes], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: tenant-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}]
`

// A tenant who may create PyrsiaNodes in one namespace, and nothing else, wants
// to be root on every machine of the cluster, and to take over what belongs to
// others.
func TestTenant(t *testing.T) {
	w := cluster(t)
	t.Cleanup(func() { clean(t, w, "tenant-a", "tenant-b") })
	t.Log("mallory may create PyrsiaNodes in namespace tenant-a, and nothing else; the cluster has no other admission than the API server's own")
	if out, err := apply(t, w, "", tenantRights); err != nil {
		t.Fatal(out, err)
	}
	own := pushTool(t, w, "root", `[ "$(busybox id -u)" = 0 ] && echo "I am uid 0 on the machine, whose /etc/shadow begins with $(busybox head -c 5 /data/etc/shadow)"`)
	t.Logf("he has an image of his own, %s, which prints the begin of the machine's /etc/shadow if it is root and the machine's disk is at /data", own)
	t.Run("root on every machine", func(t *testing.T) { rootByPyrsiaNode(t, w, own) })
	t.Run("where the policy was removed", func(t *testing.T) { rootWithoutPolicy(t, w, own) })
	t.Run("another one's Secret", func(t *testing.T) { anothersSecret(t, w) })
	t.Run("a link in his own folder", func(t *testing.T) { linkInFolder(t, w) })
}

// mirrorOf is a mirror with these lines in its spec.
func mirrorOf(t *testing.T, namespace, name, lines string) string {
	t.Helper()
	_, key, err := ledger.GenerateKey("example.com/mallory")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{apiVersion: pyrsia.io/v1alpha1, kind: PyrsiaNode, metadata: {name: %s, namespace: %s}, spec: {role: Mirror, %s,
		tolerations: [{operator: Exists}], network: {ledgerKey: %q,
		bootstrap: [/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA]}}}`, name, namespace, lines, key)
}

func rootMirror(t *testing.T, image string) string {
	return mirrorOf(t, "tenant-a", "root", fmt.Sprintf("image: %q, storage: {hostPath: /.}, mirror: {containerdConfigPath: /etc}", image))
}

func rootByPyrsiaNode(t *testing.T, w *steps.Env, image string) {
	t.Log("he applies a mirror with his image, storage.hostPath: /. and containerdConfigPath: /etc")
	out, err := apply(t, w, "mallory", rootMirror(t, image))
	if err == nil {
		t.Errorf("  the API server: %s", out)
		ranAsRoot(t, w)
		run(t, w, "kubectl", "-n", "tenant-a", "delete", "pyrsianode", "root", "--wait=false")
		return
	}
	t.Logf("  the API server refuses it: %s", saysOf(err))
	t.Log("he applies one that takes all defaults")
	out, err = apply(t, w, "mallory", mirrorOf(t, "tenant-a", "plain", "cacheSize: 1Gi"))
	if err == nil || !strings.Contains(err.Error(), "kubectl label namespace tenant-a pyrsia.io/mirrors=allowed") {
		t.Errorf("  the API server: %s %v", out, err)
	}
	t.Logf("  the API server refuses it: %s", saysOf(err))
	t.Log("he labels his namespace himself")
	if out, err := w.Output(t.Context(), "kubectl", "patch", "namespace", "tenant-a", "-p", `{"metadata":{"labels":{"pyrsia.io/mirrors":"allowed"}}}`, "--as", "mallory"); err == nil {
		t.Errorf("  the API server: %s", out)
	} else {
		t.Logf("  the API server refuses it: %s", saysOf(err))
	}
}

// ranAsRoot tells what the attacker's image printed on the machines.
func ranAsRoot(t *testing.T, w *steps.Env) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		out, _ := w.Output(t.Context(), "kubectl", "-n", "tenant-a", "logs", "-l", "app.kubernetes.io/instance=root", "-c", "init-data", "--prefix", "--tail=1")
		if strings.Contains(out, "I am uid 0") {
			for line := range strings.Lines(out) {
				t.Errorf("  his image: %s", strings.TrimSpace(line))
			}
			return
		}
	}
	t.Log("  his image has not run within a minute")
}

func rootWithoutPolicy(t *testing.T, w *steps.Env, image string) {
	t.Log("an administrator has removed the policy by mistake")
	const binding = "validatingadmissionpolicybinding/pyrsia-operator"
	saved, err := w.Output(t.Context(), "sh", "-c", "kubectl get "+binding+" -o yaml | grep -vE '^  (resourceVersion|uid|creationTimestamp|generation):'")
	if err != nil || saved == "" {
		t.Skip("there is no policy")
	}
	run(t, w, "kubectl", "delete", binding)
	defer func() {
		run(t, w, "kubectl", "-n", "tenant-a", "delete", "pyrsianode", "root")
		if out, err := apply(t, w, "", saved); err != nil {
			t.Error(out, err)
		}
	}()
	t.Log("he applies the mirror again")
	eventually(t, 30*time.Second, func() error { _, err := apply(t, w, "mallory", rootMirror(t, image)); return err })
	t.Log("  the API server takes it")
	run(t, w, "kubectl", "-n", "tenant-a", "wait", "--for=condition=NotAllowed", "pyrsianode/root", "--timeout=60s")
	t.Logf("  the operator does not: %s", run(t, w, "kubectl", "-n", "tenant-a", "get", "pyrsianode", "root", "-o", `jsonpath={.status.conditions[?(@.type=="NotAllowed")].message}`))
	time.Sleep(5 * time.Second)
	if made := run(t, w, "kubectl", "-n", "tenant-a", "get", "daemonsets,pods,services,secrets", "-o", "name"); made != "" {
		t.Errorf("  it has made %s", made)
	}
}

func anothersSecret(t *testing.T, w *steps.Env) {
	t.Log("another team keeps a password in the Secret payments-control, which mallory may neither read nor write")
	if out, err := apply(t, w, "", `{apiVersion: v1, kind: Secret, metadata: {name: payments-control, namespace: tenant-a}, stringData: {password: theirs}}`); err != nil {
		t.Fatal(out, err)
	}
	get := func() string {
		return run(t, w, "kubectl", "-n", "tenant-a", "get", "secret", "payments-control", "-o", "jsonpath={.metadata.resourceVersion} {.metadata.ownerReferences[*].kind} {.data}")
	}
	before := get()
	t.Log("he creates a publisher of the name payments, whose keys would be in a Secret of that name")
	if out, err := apply(t, w, "mallory", `{apiVersion: pyrsia.io/v1alpha1, kind: PyrsiaNode, metadata: {name: payments, namespace: tenant-a}, spec: {role: Publisher}}`); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, time.Minute, func() error {
		if out := run(t, w, "kubectl", "-n", "tenant-a", "get", "pyrsianode", "payments", "-o", `jsonpath={.status.conditions[?(@.type=="KeysReady")].message}`); out != "" {
			t.Logf("  the operator: %s", out)
			return nil
		}
		return fmt.Errorf("no condition KeysReady")
	})
	time.Sleep(5 * time.Second)
	if after := get(); after != before {
		t.Errorf("  the Secret was taken over: it was owned by nobody, and is owned by %q with %d keys", strings.Fields(after)[1], strings.Count(after, ":"))
	} else {
		t.Log("  the Secret is untouched")
	}
	run(t, w, "kubectl", "-n", "tenant-a", "delete", "pyrsianode", "payments")
}

// linkInFolder is the attack of a tenant whose mirrors an administrator has
// allowed. His image runs without rights, but owns the mirror's folder.
func linkInFolder(t *testing.T, w *steps.Env) {
	t.Log("namespace tenant-b is allowed to have mirrors; mallory's image, which is not root, puts a link to /etc in place of a folder that root gives to the mirror's user")
	if out, err := apply(t, w, "", `{apiVersion: v1, kind: Namespace, metadata: {name: tenant-b, labels: {pyrsia.io/mirrors: allowed}}}`); err != nil {
		t.Fatal(out, err)
	}
	image := pushTool(t, w, "link", `busybox id -u; busybox rm -rf /data/frontend; busybox ln -s /etc /data/frontend && busybox ls -l /data/frontend; busybox sleep 3600`)
	spec := fmt.Sprintf("image: %q, mirror: {containerd: Unmanaged}, podAnnotations: {example.com/round: ", image)
	owner := func() string { return run(t, w, "hack/cluster/cluster", "exec", "w1", "stat", "-c", "%u:%g", "/etc") }
	before := owner()
	eventually(t, 30*time.Second, func() error { // the policy learns of the label
		_, err := apply(t, w, "", mirrorOf(t, "tenant-b", "links", spec+"one}"))
		return err
	})
	link := "/var/lib/pyrsia/tenant-b_links/frontend"
	eventually(t, 2*time.Minute, func() error {
		_, err := w.Output(t.Context(), "hack/cluster/cluster", "exec", "w1", "test", "-L", link)
		return err
	})
	t.Logf("  on the machine: %s", run(t, w, "hack/cluster/cluster", "exec", "w1", "ls", "-ld", link))
	t.Log("he has all pods replaced, so that root gives the folder again")
	run(t, w, "kubectl", "-n", "tenant-b", "patch", "pyrsianode", "links", "--type=merge", "-p", `{"spec":{"podAnnotations":{"example.com/round":"two"}}}`)
	run(t, w, "kubectl", "-n", "tenant-b", "delete", "pods", "-l", "app.kubernetes.io/instance=links", "--wait=false")
	time.Sleep(20 * time.Second)
	if after := owner(); after != before {
		t.Errorf("  /etc of the machine belonged to %s, and belongs to %s", before, after)
	} else {
		t.Logf("  /etc of the machine belongs to %s as before; the kubelet and the mirror say:", after)
	}
	t.Log("  " + run(t, w, "sh", "-c", `kubectl -n tenant-b get events --field-selector type=Warning -o jsonpath='{range .items[*]}{.message}{"\n"}{end}' | grep -iE 'subpath|is it a link' | sort -u | head -3; true`))
	run(t, w, "kubectl", "-n", "tenant-b", "delete", "pyrsianode", "links")
}

// pushTool gives the machines an image that runs a script, whatever its arguments.
func pushTool(t *testing.T, w *steps.Env, tag, script string) string {
	t.Helper()
	var registry string
	for line := range strings.Lines(run(t, w, "hack/cluster/cluster", "env")) {
		if ip, ok := strings.CutPrefix(strings.TrimSpace(line), "export CLUSTER_HOST_IP="); ok {
			registry = strings.Trim(ip, `'"`) + ":5000"
		}
	}
	base, err := name.ParseReference(registry+"/library/busybox:1.35", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(base, remote.WithContext(t.Context()))
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/bin/busybox", "sh", "-c", script}, Env: []string{"PATH=/bin"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(registry+"/mallory/tool:"+tag, name.Insecure)
	if err == nil {
		err = remote.Write(ref, img, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"cp", "w1", "w2"} { // they reach it by plain HTTP
		run(t, w, "hack/cluster/cluster", "exec", node, "sh", "-c", `mkdir -p "/etc/containerd/certs.d/$0" && echo "server = \"http://$0\"" >"/etc/containerd/certs.d/$0/hosts.toml"`, registry)
	}
	return ref.String()
}

// run is a command that must succeed, and what it printed.
func run(t *testing.T, w *steps.Env, argv ...string) string {
	t.Helper()
	out, err := w.Output(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// saysOf is the sentence in kubectl's error.
func saysOf(err error) string {
	if err == nil {
		return ""
	}
	text := strings.TrimSpace(err.Error())
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// clean ends what an attack has left in its namespaces.
func clean(t *testing.T, w *steps.Env, namespaces ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, ns := range namespaces {
		for _, argv := range [][]string{
			{"kubectl", "-n", ns, "delete", "pyrsianodes", "--all", "--ignore-not-found", "--wait=false"},
			{"kubectl", "delete", "namespace", ns, "--ignore-not-found", "--wait=false"},
		} {
			if _, err := w.Output(ctx, argv...); err != nil {
				t.Log(err)
			}
		}
	}
}
