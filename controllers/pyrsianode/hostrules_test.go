package pyrsianode

import (
	"slices"
	"testing"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/fixtures"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// Rules that would allow everything, or nothing, are refused at the start.
func TestHostRulesAreChecked(t *testing.T) {
	for name, change := range map[string]func(*HostRules){
		"the root":     func(r *HostRules) { r.HostPathRoots = []string{"/"} },
		"no root":      func(r *HostRules) { r.HostPathRoots = nil },
		"an empty one": func(r *HostRules) { r.HostPathRoots = []string{""} },
		"a relative":   func(r *HostRules) { r.HostPathRoots = []string{"var"} },
		"that climbs":  func(r *HostRules) { r.ContainerdConfigPaths = []string{"/etc/../x"} },
		"a slash":      func(r *HostRules) { r.HostPathRoots = []string{"/var/lib/pyrsia/"} },
		"no port":      func(r *HostRules) { r.MirrorPorts = nil },
		"no path":      func(r *HostRules) { r.ContainerdConfigPaths = nil },
	} {
		rules := DefaultHostRules("x")
		if change(&rules); rules.Check() == nil {
			t.Errorf("%s: %+v is accepted", name, rules)
		}
	}
	if err := DefaultHostRules("x").Check(); err != nil {
		t.Error(err)
	}
}

// The creator of a PyrsiaNode chooses spec.image: no container that runs as
// root, or on the host's network, has that image.
func TestOwnImagesHaveNoPower(t *testing.T) {
	mirror, exposed := fixtures.Node(v1alpha1.RoleMirror, "mirror"), fixtures.Node(v1alpha1.RolePublisher, "publisher")
	mirror.Spec.Image, exposed.Spec.Image = "example.com/own", "example.com/own"
	exposed.Spec.Publisher = &v1alpha1.Publisher{RestoreFrom: &v1alpha1.RestoreFrom{URLs: []string{"http://192.0.2.7:8080"}}}
	released := mirror.DeepCopy()
	released.Finalizers, released.Spec.Mirror = []string{containerdFinalizer}, &v1alpha1.Mirror{Containerd: v1alpha1.ContainerdUnmanaged}
	in := desired.Inputs{Image: "ghcr.io/pyrsia/pyrsia:v0.1.0", LedgerKey: "key", Host: Wants(mirror, nil)}
	privileged, own, canaries := 0, 0, 0
	for name, template := range map[string]*coreac.PodTemplateSpecApplyConfiguration{
		"mirror": desired.DaemonSet(mirror, in).Spec.Template, "released": desired.DaemonSet(released, in).Spec.Template,
		"frontend": desired.FrontendDaemonSet(mirror, in).Spec.Template, "cleanup": desired.CleanupDaemonSet(mirror, in, desired.Place{Path: desired.DefaultConfigPath}).Spec.Template,
		"publisher": desired.StatefulSet(exposed, in).Spec.Template,
	} {
		onHost := template.Spec.HostNetwork != nil && *template.Spec.HostNetwork
		for _, container := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
			switch root := *container.SecurityContext.RunAsUser == 0 || !*container.SecurityContext.RunAsNonRoot; {
			case *container.Image == "example.com/own":
				if own++; root || onHost {
					t.Errorf("the container %s of %s has the user's image", *container.Name, name)
				}
			case *container.Image == canary.Image(string(mirror.UID)): // which may be whatever containerd has got for it
				if canaries++; root || onHost {
					t.Errorf("the container %s of %s has power", *container.Name, name)
				}
			case *container.Image != in.Image:
				t.Errorf("the container %s of %s has the image %s", *container.Name, name, *container.Image)
			case root || onHost:
				privileged++
			}
		}
	}
	if privileged < 6 || own < 3 || canaries != 1 {
		t.Errorf("only %d containers with power, %d with the user's image and %d canaries were looked at", privileged, own, canaries)
	}
}
