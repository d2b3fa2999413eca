package pyrsianode

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/distributions"
)

// A distribution that mirrors can set up stands for its folder, which the default
// rules allow; of the others the API says that none can.
func TestDistributionPicksTheFolder(t *testing.T) {
	data, err := os.ReadFile("../../config/crd/pyrsia.io_pyrsianodes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var names, refused []string
	for _, d := range distributions.All {
		names = append(names, d.Name)
		if d.CertsD == "" {
			refused = append(refused, "'"+d.Name+"'")
			continue
		}
		n := &v1alpha1.PyrsiaNode{Spec: v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror, Mirror: &v1alpha1.Mirror{Distribution: d.Name, ContainerdConfigPath: desired.DefaultConfigPath}}}
		if got := desired.MirrorSpec(n).ContainerdConfigPath; got != d.CertsD || !slices.Contains(DefaultHostRules("").ContainerdConfigPaths, got) {
			t.Errorf("%s: set up at %s, want %s, which has to be allowed", d.Name, got, d.CertsD)
		}
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	mirror := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["mirror"]
	var values []string
	for _, v := range mirror.Properties["distribution"].Enum {
		values = append(values, strings.Trim(string(v.Raw), `"`))
	}
	if diff := cmp.Diff(names, values); diff != "" {
		t.Errorf("spec.mirror.distribution (-the table +the API):\n%s", diff)
	}
	rules := fmt.Sprint(mirror.XValidations)
	if rule := "self.distribution in [" + strings.Join(refused, ", ") + "]"; !strings.Contains(rules, rule) {
		t.Errorf("no rule of the API has %q: %s", rule, rules)
	}
}
