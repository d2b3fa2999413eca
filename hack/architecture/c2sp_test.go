package architecture

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each test that docs/c2sp.md names for a demand of a specification is there.
func TestConformanceNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/c2sp.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	defined := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, folder := range []string{"node", "hack"} {
		err := filepath.WalkDir("../../"+folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range defined.FindAllStringSubmatch(string(source), -1) {
				tests[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 20 {
		t.Errorf("the page names %d tests: it has lost some", len(named))
	}
	for _, m := range named {
		if !tests[m[1]] {
			t.Errorf("docs/c2sp.md names %s, which no package has", m[1])
		}
	}
}
