// Package architecture holds ARCHITECTURE.md to the code: every package has its line
// in the page's table, and imports no other package of this project than the line
// allows. It also keeps files and packages small. It has tests only.
package architecture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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

// A file that is read in one go, and a package whose files fit on one screen.
const (
	maxLines = 400
	maxFiles = 25 // without tests
)

func TestFilesAndPackagesStaySmall(t *testing.T) {
	generated := regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	for _, l := range goList(t, `{{.Dir}}|{{join .GoFiles " "}}|{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}} {{join .IgnoredGoFiles " "}}`) {
		parts := strings.Split(l, "|")
		dir, files, tests := parts[0], strings.Fields(parts[1]), strings.Fields(parts[2])
		if len(files) > maxFiles {
			t.Errorf("%s has %d files without tests, at most %d: what of it is a package of its own?", dir, len(files), maxFiles)
		}
		for _, name := range append(files, tests...) {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("\n")); n > maxLines && !generated.Match(data) {
				t.Errorf("%s has %d lines, at most %d: split it by topic", filepath.Join(dir, name), n, maxLines)
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
	packages := map[string][]string{}
	for _, l := range goList(t, `{{.ImportPath}} {{join .Imports " "}}`) {
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

// goList returns a line for each package of the project.
func goList(t *testing.T, format string) []string {
	t.Helper()
	list := exec.Command("go", "list", "-f", format, "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
