package pyrsianode

import (
	"fmt"
	"slices"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// cutsItselfOff tells an image of a mirror's own pods and its registry, if a
// strict containerd could pull it through the mirror alone: once the mirror is
// gone, it could never come back.
func cutsItselfOff(n *v1alpha1.PyrsiaNode, in desired.Inputs) (image, registry string) {
	m := desired.MirrorSpec(n)
	if n.Spec.Role != v1alpha1.RoleMirror || m.Containerd != v1alpha1.ContainerdStrict {
		return "", ""
	}
	for _, image := range []string{desired.NodeImage(n, in), in.Image} {
		name, err := reference.ParseNormalizedNamed(image)
		if err == nil && slices.ContainsFunc(m.Registries, func(r string) bool { return sameRegistry(r, reference.Domain(name)) }) {
			return image, reference.Domain(name)
		}
	}
	return "", ""
}

// sameRegistry compares registries by the names under which they are known.
func sameRegistry(a, b string) bool {
	canonicalA, err1 := ledger.CanonicalRegistry(a)
	canonicalB, err2 := ledger.CanonicalRegistry(b)
	return err1 == nil && err2 == nil && canonicalA == canonicalB
}

// setUpRefusal tells why the mirror does not run, or cannot set containerd up, on
// the first Kubernetes node where that is refused: another mirror has a registry or
// the folder there, another process has the mirror's port, or of what is set up there
// something could not be kept.
func setUpRefusal(pods []corev1.Pod) (reason, message string) {
	count := 0
	for _, p := range pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			ended := s.State.Terminated
			if ended == nil {
				ended = s.LastTerminationState.Terminated // it waits to be started again, or has been
			}
			if ended == nil || !slices.Contains(refusals[ended.ExitCode].containers, s.Name) || s.Name == objects.ContainerKeep && s.State.Running != nil {
				continue
			}
			if count++; count == 1 {
				refused := refusals[ended.ExitCode]
				reason = refused.reason
				message = fmt.Sprintf("%s on the Kubernetes node %s%s", refused.what, p.Spec.NodeName, lastWords(s))
			}
		}
	}
	if count > 1 {
		message = fmt.Sprintf("on %d Kubernetes nodes; %s", count, message)
	}
	return reason, message
}

// refusals are what a container of a mirror's pods refuses, by its exit status.
var refusals = map[int32]struct {
	containers   []string
	reason, what string
}{
	control.ExitRegistryTaken: {[]string{objects.ContainerSetUp, objects.ContainerKeep}, v1alpha1.ReasonRegistryTaken, "containerd is not set up"},
	control.ExitPortTaken:     {[]string{objects.ContainerSetUp, objects.ContainerKeep}, v1alpha1.ReasonPortTaken, "containerd is not set up"},
	control.ExitFolderTaken:   {[]string{desired.ContainerInitData}, v1alpha1.ReasonFolderTaken, "the mirror does not run"},
	control.ExitSetUpRefused:  {[]string{objects.ContainerSetUp, objects.ContainerKeep}, v1alpha1.ReasonSetUpRefused, "containerd is not set up"},
}
