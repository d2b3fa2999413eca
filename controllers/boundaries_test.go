package controllers_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pyrsia/pyrsia-operator"

// mayImport are the packages below controllers, and what of this module each may import
// besides the API: "node/x" is a contract with the nodes, all else is below controllers.
// No controller knows another one.
var mayImport = map[string][]string{
	"internal/status":     {},
	"internal/objects":    {"internal/status", "node/ledger"},
	"internal/nodeclient": {"internal/status", "internal/objects", "node/control", "node/ledger"},
	"internal/apply":      {"internal/objects"},
	"internal/fixtures":   {"internal/objects", "node/canary", "node/control", "node/ledger"}, // for tests
	"pyrsianode/desired":  {"internal/objects", "node/canary", "node/control", "node/distributions", "node/ledger"},
	"pyrsianode":          {"pyrsianode/desired", "internal/apply", "internal/nodeclient", "internal/objects", "internal/status", "node/canary", "node/control", "node/ledger"},
	"imageset":            {"internal/nodeclient", "internal/objects", "internal/status", "node/control", "node/ledger"},
	"artifact":            {"internal/nodeclient", "internal/objects", "internal/status", "node/control", "node/ledger"},
	"pullhistory":         {"internal/nodeclient", "internal/objects", "internal/status", "node/control", "node/ledger"},
	"":                    {"artifact", "imageset", "pullhistory", "pyrsianode", "internal/nodeclient", "internal/objects", "internal/status"},
}

func TestControllersImportOnlyTheContracts(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range goListLines(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/controllers/...") {
		of, imports, _ := strings.Cut(line, " ")
		of = below(of)
		allowed, known := mayImport[of]
		if seen[of] = true; !known {
			t.Errorf("%s is not in mayImport: say what it may import", of)
			continue
		}
		for _, pkg := range strings.Fields(imports) {
			if strings.HasPrefix(pkg, module+"/") && pkg != module+"/api/v1alpha1" && !slices.Contains(allowed, below(pkg)) {
				t.Errorf("%q must not import %s", of, pkg)
			}
		}
	}
	for of := range mayImport {
		if !seen[of] {
			t.Errorf("%q is in mayImport, and there is no such package", of)
		}
	}
}

// A package of many files, or a file of many lines, is to be divided.
func TestControllersStaySmall(t *testing.T) {
	const maxFiles, maxLines = 25, 400
	for _, line := range goListLines(t, "-f", `{{.Dir}} {{join .GoFiles " "}}`, module+"/controllers/...") {
		dir, names, _ := strings.Cut(line, " ")
		files := strings.Fields(names)
		if len(files) > maxFiles {
			t.Errorf("%s has %d files, more than %d", dir, len(files), maxFiles)
		}
		for _, file := range files {
			data, err := os.ReadFile(filepath.Join(dir, file))
			must(t, err)
			if lines := strings.Count(string(data), "\n"); lines > maxLines {
				t.Errorf("%s has %d lines, more than %d", file, lines, maxLines)
			}
		}
	}
}

// below is a package's name below controllers, or in the module.
func below(pkg string) string {
	pkg = strings.TrimPrefix(strings.TrimPrefix(pkg, module), "/")
	return strings.TrimPrefix(strings.TrimPrefix(pkg, "controllers"), "/")
}

// The node knows no Kubernetes. klog is the exception: tessera logs through it.
func TestNodeDependsOnNoKubernetesModule(t *testing.T) {
	for _, pkg := range goListLines(t, "-deps", module+"/node/...") {
		if kubernetes(pkg) {
			t.Errorf("node/... depends on %s", pkg)
		}
	}
}

func kubernetes(pkg string) bool {
	return (strings.HasPrefix(pkg, "k8s.io/") || strings.HasPrefix(pkg, "sigs.k8s.io/")) &&
		pkg != "k8s.io/klog/v2" && !strings.HasPrefix(pkg, "k8s.io/klog/v2/")
}

func goListLines(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
