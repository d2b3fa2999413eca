package v1alpha1

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// schemas are what the API server shows of the spec and the status of each kind.
func schemas(t *testing.T) map[string]apiextensionsv1.JSONSchemaProps {
	t.Helper()
	files, err := filepath.Glob("../../config/crd/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("CRDs: %v, %v", files, err)
	}
	out := map[string]apiextensionsv1.JSONSchemaProps{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(data, &crd); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"spec", "status"} {
			out[crd.Spec.Names.Singular+"."+part] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties[part]
		}
	}
	return out
}

// Every field is described by a sentence that begins with its name.
func TestEveryFieldIsDescribed(t *testing.T) {
	for path, schema := range schemas(t) {
		described(t, path, schema)
	}
}

// described stops at the types of Kubernetes itself, which have words of their own.
func described(t *testing.T, path string, schema apiextensionsv1.JSONSchemaProps) {
	name := path[strings.LastIndexByte(path, '.')+1:]
	if !strings.HasPrefix(schema.Description, name+" ") {
		t.Errorf("%s: the description %q does not begin with the field's name", path, schema.Description)
	}
	if name == "conditions" || name == "resources" || name == "tolerations" || name == "affinity" {
		return
	}
	for field, s := range schema.Properties {
		described(t, path+"."+field, s)
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		for field, s := range schema.Items.Schema.Properties {
			described(t, path+"."+field, s)
		}
	}
}

// kubectl explain shows these descriptions, as a reader at a terminal sees them.
func TestExplain(t *testing.T) {
	needAPI(t)
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	if _, err := os.Stat(kubectl); err != nil && os.Getenv("CI") != "true" {
		t.Skip("no kubectl beside the API server: ", err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, kubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, schema := range schemas(t) {
		var out []byte
		var err error
		// An API server that has just started publishes the schemas one after the other.
		for range 60 {
			out, err = exec.CommandContext(t.Context(), kubectl, "--kubeconfig", kubeconfig, "explain", path).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "couldn't find resource") {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("kubectl explain %s: %v\n%s", path, err, out)
			continue
		}
		shown := strings.Join(strings.Fields(string(out)), " ") // without kubectl's line breaks
		for field, s := range schema.Properties {
			if !strings.Contains(shown, strings.Join(strings.Fields(s.Description), " ")) {
				t.Errorf("kubectl explain %s does not show the description of %s:\n%s", path, field, out)
			}
		}
	}
}
