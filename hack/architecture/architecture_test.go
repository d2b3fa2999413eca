// Package architecture holds ARCHITECTURE.md to the code: every package has its line
// in the page's table, and imports no other package of this project than the line
// allows. It has tests only.
package architecture

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	page   = "../../ARCHITECTURE.md"
	module = "github.com/pyrsia/pyrsia-operator/"
)

var (
	// line is | `package` | what it is for | what it imports |
	line   = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|[^|\n]+\\|([^|\n]*)\\|$")
	quoted = regexp.MustCompile("`([^`]+)`")
)

func TestEveryPackageHasItsLine(t *testing.T) {
	table, packages := readTable(t), listPackages(t)
	for p := range packages {
		if _, ok := table[p]; !ok {
			t.Errorf("ARCHITECTURE.md has no line for %s: say there what it is for and what it may import", p)
		}
	}
	for p := range table {
		if _, ok := packages[p]; !ok {
			t.Errorf("ARCHITECTURE.md has a line for %s, which does not exist", p)
		}
	}
}

func TestPackagesImportWhatTheirLineAllows(t *testing.T) {
	packages := listPackages(t)
	for p, may := range readTable(t) {
		for _, i := range packages[p] {
			if !slices.Contains(may, i) {
				t.Errorf("%s imports %s, which its line in ARCHITECTURE.md does not allow", p, i)
			}
		}
	}
}

// readTable returns what each package may import.
func readTable(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	table := map[string][]string{}
	for _, m := range line.FindAllStringSubmatch(string(data), -1) {
		if _, twice := table[m[1]]; twice {
			t.Errorf("ARCHITECTURE.md has two lines for %s", m[1])
		}
		table[m[1]] = nil
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			table[m[1]] = append(table[m[1]], q[1])
		}
	}
	if len(table) == 0 {
		t.Fatal("ARCHITECTURE.md has no line for any package")
	}
	return table
}

// listPackages returns what each package imports of this project, tests aside.
func listPackages(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := map[string][]string{}
	for l := range strings.Lines(string(out)) {
		fields := strings.Fields(l)
		p := strings.TrimPrefix(fields[0], module)
		packages[p] = nil
		for _, i := range fields[1:] {
			if own, ok := strings.CutPrefix(i, module); ok {
				packages[p] = append(packages[p], own)
			}
		}
	}
	return packages
}
