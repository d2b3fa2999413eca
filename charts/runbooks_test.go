package charts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	strict "sigs.k8s.io/yaml"
)

// Each alert leads to its page, each page belongs to an alert and stands in the list of
// them, and all have the sections that somebody who was woken looks for.
func TestAlertsHaveRunbooks(t *testing.T) {
	const folder = "../docs/runbooks"
	data, err := os.ReadFile("pyrsia-operator/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations struct {
					URL string `json:"runbook_url"`
				}
				Labels struct{ Severity string }
			}
		}
	}
	if err := strict.Unmarshal(data, &rules); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{"README.md": true}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			page := r.Alert + ".md"
			pages[page] = true
			if want := "https://github.com/pyrsia/pyrsia-operator/blob/main/docs/runbooks/" + page; r.Annotations.URL != want {
				t.Errorf("%s: runbook_url %q, want %q", r.Alert, r.Annotations.URL, want)
			}
			text, err := os.ReadFile(filepath.Join(folder, page))
			if err != nil {
				t.Errorf("%s has no page: %v", r.Alert, err)
				continue
			}
			for _, want := range []string{
				"# " + r.Alert + "\n", "\nSeverity: " + r.Labels.Severity + ".\n",
				"\n## What it means\n", "\n## How to look\n", "\n## What to do\n", "\n## When to worry\n",
			} {
				if !strings.Contains(string(text), want) {
					t.Errorf("%s lacks %q", page, want)
				}
			}
			// The node is one of several containers, and its program is at the image's root.
			if strings.Count(string(text), "exec POD") != strings.Count(string(text), "exec POD -c node -- /pyrsia ") {
				t.Errorf("%s runs something else than /pyrsia in the container node", page)
			}
			if row := "| [" + r.Alert + "](" + page + ") | " + r.Labels.Severity + " |"; !strings.Contains(string(list), row) {
				t.Errorf("README.md lacks %q", row)
			}
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !pages[f.Name()] {
			t.Errorf("no alert leads to %s", f.Name())
		}
	}
}
