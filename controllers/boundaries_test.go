package controllers

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pyrsia/pyrsia-operator"

// The node knows no Kubernetes. klog is the exception: tessera logs through it.
func TestNodeDependsOnNoKubernetesModule(t *testing.T) {
	for _, pkg := range goList(t, "-deps", module+"/node/...") {
		if kubernetes(pkg) {
			t.Errorf("node/... depends on %s", pkg)
		}
	}
}

func kubernetes(pkg string) bool {
	return (strings.HasPrefix(pkg, "k8s.io/") || strings.HasPrefix(pkg, "sigs.k8s.io/")) &&
		pkg != "k8s.io/klog/v2" && !strings.HasPrefix(pkg, "k8s.io/klog/v2/")
}

// The controllers know of a node what its control API and its proofs say.
func TestControllersImportOnlyTheContracts(t *testing.T) {
	allowed := []string{module + "/api/v1alpha1", module + "/node/canary", module + "/node/control", module + "/node/distributions", module + "/node/ledger"}
	for _, pkg := range goList(t, "-f", `{{join .Imports "\n"}}`, module+"/controllers") {
		if strings.HasPrefix(pkg, module+"/") && !slices.Contains(allowed, pkg) {
			t.Errorf("controllers imports %s", pkg)
		}
	}
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Fields(string(out))
}
