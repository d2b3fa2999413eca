package pyrsianode

import (
	"testing"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// Docker Hub under another name still cuts off a mirror whose image is there.
func TestMirrorMustNotCutItselfOff(t *testing.T) {
	for registry, want := range map[string]string{"docker.io": "docker.io", "registry-1.docker.io": "docker.io", "index.docker.io": "docker.io", "quay.io": ""} {
		n := &v1alpha1.PyrsiaNode{Spec: v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror, Mirror: &v1alpha1.Mirror{Registries: []string{registry}}}}
		if _, got := cutsItselfOff(n, desired.Inputs{Image: "pyrsia/pyrsia:v1"}); got != want {
			t.Errorf("registries [%s]: cut off from %q, want %q", registry, got, want)
		}
	}
}
