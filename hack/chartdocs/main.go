// Command chartdocs writes the chart's README: what it is, and every value with
// its default and the comment that it has in values.yaml. A value without a
// comment is an error.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const head = `# The Helm chart of the Pyrsia operator

Written by ` + "`make manifests`" + ` from the comments in [values.yaml](values.yaml). It needs Kubernetes %s.
[config/default](../../config/default) is this chart as it is rendered without any value.

` + "```sh" + `
helm install pyrsia-operator charts/pyrsia-operator --namespace pyrsia-system --create-namespace
` + "```" + `

The operator watches all namespaces, unless the value ` + "`namespaces`" + ` names some. Mirrors need a namespace that an administrator allows:
` + "`kubectl label namespace NAME pyrsia.io/mirrors=allowed`" + `. ` + "`helm uninstall`" + ` leaves the CRDs, and with them the custom resources, in place; delete those first,
for only the operator gives containerd its own configuration back. If something else installs the CRDs, set ` + "`crds.enabled=false`" + `.

The alerts are in [monitoring/alerts.yaml](monitoring/alerts.yaml), the dashboard in [monitoring/dashboard.json](monitoring/dashboard.json):
both can be used without the chart. Each alert has a page that says what to do: [docs/runbooks](../../docs/runbooks/README.md).

| Value | Default | |
|---|---|---|
`

func main() {
	if err := run("charts/pyrsia-operator"); err != nil {
		fmt.Fprintln(os.Stderr, "chartdocs:", err)
		os.Exit(1)
	}
}

func run(chart string) error {
	var about struct {
		KubeVersion string `yaml:"kubeVersion"`
	}
	data, err := os.ReadFile(chart + "/Chart.yaml")
	if err == nil {
		err = yaml.Unmarshal(data, &about)
	}
	if err != nil {
		return err
	}
	if data, err = os.ReadFile(chart + "/values.yaml"); err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, head, strings.NewReplacer(">=", "", "-0", "").Replace(about.KubeVersion)+" or newer")
	if err := rows(&out, "", doc.Content[0]); err != nil {
		return err
	}
	return os.WriteFile(chart+"/README.md", out.Bytes(), 0o644)
}

// rows writes the values of a mapping. A mapping that has a comment is one value.
func rows(out *bytes.Buffer, prefix string, mapping *yaml.Node) error {
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		name := prefix + key.Value
		if key.HeadComment == "" {
			if value.Kind != yaml.MappingNode || len(value.Content) == 0 {
				return fmt.Errorf("%s has no comment in values.yaml", name)
			}
			if err := rows(out, name+".", value); err != nil {
				return err
			}
			continue
		}
		var decoded any
		if err := value.Decode(&decoded); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		text, err := json.Marshal(decoded)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		comment := strings.ReplaceAll(strings.TrimPrefix(key.HeadComment, "# "), "\n# ", " ")
		fmt.Fprintf(out, "| `%s` | `%s` | %s |\n", name, text, comment)
	}
	return nil
}
