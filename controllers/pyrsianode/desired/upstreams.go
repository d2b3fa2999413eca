package desired

import (
	"fmt"
	"strings"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// UpstreamSecretsPath is where a publisher's pod finds the secrets of its
// upstreams.
const UpstreamSecretsPath = "/upstreams"

// upstreamSecret is the folder with one upstream's secrets.
type upstreamSecret struct {
	volume *coreac.VolumeApplyConfiguration
	mount  *coreac.VolumeMountApplyConfiguration
}

// upstreamSecrets are the volumes with credentials and CAs. A Secret that is
// not there does not hold the pod up: the registry's refusal tells.
func upstreamSecrets(n *v1alpha1.PyrsiaNode) (out []upstreamSecret) {
	if n.Spec.Publisher == nil {
		return nil
	}
	for i, u := range n.Spec.Publisher.Upstreams {
		sources := coreac.ProjectedVolumeSource().WithDefaultMode(0o440)
		for _, ref := range []*v1alpha1.LocalReference{u.CredentialsSecretRef, u.CASecretRef} {
			if ref != nil {
				sources.WithSources(coreac.VolumeProjection().WithSecret(coreac.SecretProjection().WithName(ref.Name).WithOptional(true)))
			}
		}
		if len(sources.Sources) == 0 {
			continue
		}
		name := fmt.Sprintf("upstream-%d", i)
		out = append(out, upstreamSecret{
			volume: coreac.Volume().WithName(name).WithProjected(sources),
			// A mount path cannot hold the colon of a port: the node knows.
			mount: coreac.VolumeMount().WithName(name).WithReadOnly(true).
				WithMountPath(UpstreamSecretsPath + "/" + strings.ReplaceAll(u.Registry, ":", "_")),
		})
	}
	return out
}

// onPullArgs let a publisher publish what is pulled from it.
func onPullArgs(n *v1alpha1.PyrsiaNode) (args []string) {
	if !objects.OnPull(n) {
		return nil
	}
	on := n.Spec.Publisher.OnPull
	args = append(args, "--mirror-addr", fmt.Sprintf(":%d", PortMirror), "--on-pull-per-hour", fmt.Sprint(on.PerHour))
	for _, pattern := range on.Allow {
		args = append(args, "--on-pull-allow", pattern)
	}
	return args
}
