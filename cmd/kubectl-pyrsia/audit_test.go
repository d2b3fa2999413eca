package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/audit"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// running is a pod whose containers run a digest: name -> image, digest's content.
func running(namespace, name string, containers ...[2]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}}
	p.Status.Phase = corev1.PodRunning
	for i, c := range containers {
		container := fmt.Sprintf("c%d", i)
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: container, Image: c[0]})
		status := corev1.ContainerStatus{Name: container, Image: c[0]}
		if c[1] != "" {
			repository, _, _ := strings.Cut(c[0], ":")
			status.ImageID = "docker.io/library/" + repository + "@" + digest.FromString(c[1]).String()
		}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, status)
	}
	return p
}

// create puts a pod with its status into the cluster.
func create(t *testing.T, api kube.Client, p *corev1.Pod) {
	t.Helper()
	status := p.Status
	if err := api.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	p.Status = status
	if err := api.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// All that runs in a cluster is judged by what the runtimes report.
func TestAudit(t *testing.T) {
	_, kubeconfig := apiServer(t)
	api, err := kube.New(mustConfig(t, kubeconfig), kube.Options{})
	if err != nil {
		t.Fatal(err)
	}
	skey, vkey, err := ledger.GenerateKey("ledger.example/plugin")
	if err != nil {
		t.Fatal(err)
	}
	w, err := replica.OpenWriter(t.Context(), t.TempDir(), skey, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, a := range [][2]string{{"alpine:3.20", "old"}, {"alpine:3.20", "new"}, {"bad:1", "bad"}, {"init:1", "init"}, {"debug:1", "debug"}, {"data:1", "data"}} {
		content := digest.FromString(a[1])
		if _, err := w.Append(t.Context(), entry("docker.io/library/"+a[0], content, ledger.Platform{Platform: "linux/amd64", Digest: content, Config: digest.FromString(a[1] + "/config"), Size: 1})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.RevokeDigest(t.Context(), "docker.io/library/bad", digest.FromString("bad"), "contains malware", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"team", "closed"} {
		if err := api.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}); err != nil {
			t.Fatal(err)
		}
	}
	create(t, api, running("team", "web", [2]string{"alpine:3.20", "new"}, [2]string{"bad:1", "bad"}))
	create(t, api, running("team", "old", [2]string{"alpine:3.20", "old"}))
	create(t, api, running("closed", "secret", [2]string{"stranger:1", "stranger"}))
	ended := running("team", "ended", [2]string{"ended:1", "ended"})
	ended.Status.Phase = corev1.PodSucceeded
	create(t, api, ended)
	full := running("team", "full", [2]string{"alpine:3.20", ""})
	full.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: "init:1"}}
	full.Spec.Volumes = []corev1.Volume{{Name: "models", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "data:1"}}}}
	full.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "setup", ImageID: digest.FromString("init/config").String()}}
	create(t, api, full)
	full.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "shell", Image: "debug:1"}}}
	if err := api.SubResource("ephemeralcontainers").Update(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "old"}}
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "old"}}
	deployment.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "old"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "alpine:3.20"}}}}
	if err := api.Create(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
	node := httptest.NewServer(w.Handler())
	defer node.Close()
	run := func(args ...string) (string, error) {
		return runPlugin(t, node.URL, append([]string{"--kubeconfig", kubeconfig, "audit", "--key", vkey}, args...)...)
	}

	out, err := run("-A", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r auditReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range r.Images {
		for _, u := range i.Users {
			got = append(got, fmt.Sprintf("%s %s %s/%s observed=%v", i.Verdict, i.Image, u, u.Container, i.Observed))
		}
	}
	want := []string{
		"withdrawn bad:1 team/web/c1 observed=true",
		"unknown stranger:1 closed/secret/c0 observed=true",
		"moved alpine:3.20 team/old/c0 observed=true",
		"vouched alpine:3.20 team/full/c0 observed=false",
		"vouched alpine:3.20 team/web/c0 observed=true",
		"vouched data:1 team/full/volume models observed=false",
		"vouched debug:1 team/full/shell observed=false",
		"vouched init:1 team/full/setup observed=true",
	}
	if slices.Sort(got[3:]); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !r.Complete || r.Pods != 4 || r.Ledger.Size != w.Size() || r.Ledger.Stale || r.Summary[audit.Vouched] != 5 {
		t.Errorf("%+v", r)
	}

	for args, says := range map[string][]string{
		"-n team":            {"withdrawn   1      bad:1", "contains malware", "moved       1      alpine:3.20", "7 images in 3 pods of team: 1 withdrawn, 1 moved, 5 vouched.", "ledger.example/plugin at 8 blocks", "is the word of " + node.URL},
		"-n team -o wide":    {"team/web", digest.FromString("bad").String()},
		"pod/old -n team":    {"1 images in 1 pods: 1 moved."},
		"deploy/old -n team": {"1 images in 1 pods: 1 moved."},
		"-A -o sarif":        {`"version": "2.1.0"`, `"ruleId": "withdrawn"`, `"level": "error"`, `"fullyQualifiedName": "team/web/c1"`},
		"-n team -o jsonpath={.summary.withdrawn}": {"1"},
		"-n team --registry quay.io":               {"vouched"},
		"-n closed --registry quay.io":             {"foreign   1      stranger:1", "no mirror is for its registry"},
	} {
		out, err := run(strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		for _, s := range says {
			if !strings.Contains(out, s) {
				t.Errorf("%s: want %q in\n%s", args, s, out)
			}
		}
	}
	out, err = run("-A", "-o", "csv")
	if rows, cerr := csv.NewReader(strings.NewReader(out)).ReadAll(); err != nil || cerr != nil || len(rows) != len(want)+1 {
		t.Errorf("csv: %d rows, %v, %v", len(rows), err, cerr)
	}

	for args, code := range map[string]int{
		"-A --fail-on withdrawn":                  exitFound,
		"-A --fail-on stale,renamed":              0,
		"-A --fail-on stale --max-age 0s":         exitFound,
		"-n team --fail-on unknown":               0,
		"-n closed --fail-on unknown":             exitFound,
		"-A --fail-on nothing":                    1,
		"-A pod/old":                              1,
		"-A -f x.yaml":                            1,
		"pod/nowhere -n team":                     1,
		"service/kubernetes -n default":           1,
		"-n team --url http://127.0.0.1:1":        1,
		"-n team --key ledger.example/plugin+1+x": 1,
	} {
		out, err := run(strings.Fields(args)...)
		got := 0
		if err != nil {
			got = 1
		}
		if e, ok := errors.AsType[*exitError](err); ok {
			got = e.code
		}
		if got != code {
			t.Errorf("%s: exit code %d, want %d: %v\n%s", args, got, code, err, out)
		}
	}
	auditOfManifests(t, run)
	auditWithFewRights(t, api, run)
	auditByThePinnedKey(t, api, kubeconfig, node.URL, vkey)
}

// Manifests have no digests yet: what their tags have is told.
func auditOfManifests(t *testing.T, run func(...string) (string, error)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "all.yaml")
	manifests := "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: night, namespace: team}\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: 'bad:1'}]}}}}}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: lone}\nspec: {containers: [{name: c, image: 'alpine:3.20'}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run("-f", file, "-o", "wide")
	if err != nil || !strings.Contains(out, "team/CronJob/night") || !strings.Contains(out, "1 withdrawn, 1 vouched") || !strings.Contains(out, "not observed") {
		t.Errorf("of manifests: %v\n%s", err, out)
	}
}

// Who may not list all pods is told which were seen.
func auditWithFewRights(t *testing.T, api kube.Client, run func(...string) (string, error)) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "reader"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "alice"}}}
	namespaces := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "namespaces"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"list"}}}}
	named := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "namespaces"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "namespaces"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "bob"}}}
	also := binding.DeepCopy()
	also.Name, also.Subjects[0].Name = "bob", "bob"
	for _, o := range []kube.Object{role, binding, also, namespaces, named} {
		if err := api.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for who, says := range map[string]string{"alice": "INCOMPLETE: without the right to list the pods of all others.", "bob": "closed"} {
		var out string
		var err error
		for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(200 * time.Millisecond) { // the authorizer hears of a role a little later
			if out, err = run("-A", "-n", "team", "--as", who, "--registry", "docker.io"); strings.Contains(out, "3 pods of team") {
				break
			}
		}
		e, ok := errors.AsType[*exitError](err)
		if !ok || e.code != exitIncomplete || !strings.Contains(out, says) || !strings.Contains(out, "7 images in 3 pods of team") {
			t.Errorf("%s: %v\n%s", who, err, out)
		}
	}
}

// Without --key the one counts that the operator has pinned, and the registries are
// those of the cluster's mirrors.
func auditByThePinnedKey(t *testing.T, api kube.Client, kubeconfig, node, vkey string) {
	t.Helper()
	if err := v1alpha1.AddToScheme(api.Scheme()); err != nil {
		t.Fatal(err)
	}
	publisher := new(v1alpha1.PyrsiaNode)
	if err := api.Get(t.Context(), kube.ObjectKey{Namespace: "default", Name: "publisher"}, publisher); err != nil {
		t.Fatal(err)
	}
	if _, err := runPlugin(t, node, "--kubeconfig", kubeconfig, "-n", "default", "audit"); err == nil || !strings.Contains(err.Error(), "give --key") {
		t.Errorf("without a pinned key: %v", err)
	}
	publisher.Status.Ledger = &v1alpha1.LedgerStatus{Key: vkey}
	if err := api.Status().Update(t.Context(), publisher); err != nil {
		t.Fatal(err)
	}
	mirror := &v1alpha1.PyrsiaNode{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mirror"}}
	mirror.Spec.Role, mirror.Spec.Network = v1alpha1.RoleMirror, &v1alpha1.Network{PublisherRef: &v1alpha1.LocalReference{Name: "publisher"}}
	mirror.Spec.Mirror = &v1alpha1.Mirror{Registries: []string{"index.docker.io"}}
	if err := api.Create(t.Context(), mirror); err != nil {
		t.Fatal(err)
	}
	create(t, api, running("default", "foreign", [2]string{"quay.io/org/x:1", ""}, [2]string{"stranger:1", ""}))
	out, err := runPlugin(t, node, "--kubeconfig", kubeconfig, "-n", "default", "audit")
	if err != nil || !strings.Contains(out, "foreign   1      quay.io/org/x:1") || !strings.Contains(out, "unknown   1      stranger:1") {
		t.Errorf("by the pinned key: %v\n%s", err, out)
	}
}
