package distributions

import (
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/distributions.md")

const docsHead = `# Kubernetes distributions

Where each keeps what containerd reads of registries, what removes it, and what to do where no mirror can write it. It is written from the
sources that are named, and not run on these platforms here; ` + "`pyrsia containerd status`" + ` tells what holds on a machine.

` + "`pyrsia containerd install --distribution NAME`, or `spec.mirror.distribution`" + `, picks the folder. Where there is none, the mirror is run
with ` + "`spec.mirror.containerd: Unmanaged`" + `, and its port (127.0.0.1:5001 by default) is named in the platform's own settings.

| | folder (config_path) | containerd's configuration | to know | sources |
| --- | --- | --- | --- | --- |
`

// The page is the table.
func TestDocsAreTheTable(t *testing.T) {
	var page strings.Builder
	page.WriteString(docsHead)
	for _, d := range All {
		cell := func(s string) string {
			if s == "" {
				return "none"
			}
			return "`" + s + "`"
		}
		var sources []string
		for i, s := range d.Sources {
			sources = append(sources, fmt.Sprintf("[%d](%s)", i+1, s))
		}
		fmt.Fprintf(&page, "| %s | %s | %s | %s | %s |\n", d.Name, cell(d.CertsD), cell(d.Config), d.Note, strings.Join(sources, " "))
	}
	const file = "../../docs/distributions.md"
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page.String(), string(got)); diff != "" {
		t.Errorf("go test ./node/distributions -update writes it (-want +got):\n%s", diff)
	}
}

func TestTableIsWhole(t *testing.T) {
	if !slices.IsSortedFunc(All, func(a, b Distribution) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) }) {
		t.Error("it is not sorted")
	}
	for _, d := range All {
		if d.Note == "" || len(d.Sources) == 0 || (d.CertsD == "") != (d.Config == "") {
			t.Errorf("%s: %+v", d.Name, d)
		}
		for _, p := range []string{d.CertsD, d.Config} {
			if p != "" && (!path.IsAbs(p) || path.Clean(p) != p) {
				t.Errorf("%s: %q", d.Name, p)
			}
		}
		for _, s := range d.Sources {
			if !strings.HasPrefix(s, "https://") {
				t.Errorf("%s: source %q", d.Name, s)
			}
		}
	}
}

func TestFind(t *testing.T) {
	if d, err := Find("k3s"); err != nil || d.CertsD != "/var/lib/rancher/k3s/agent/etc/containerd/certs.d" {
		t.Errorf("%+v, %v", d, err)
	}
	for name, want := range map[string]string{"talos": "skipFallback: true", "OPENSHIFT": "NeverContactSource", "Bottlerocket": "cannot be strict", "gke": "registryHosts", "k4s": "AKS, Bottlerocket", "": "none of the known"} {
		if _, err := Find(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
