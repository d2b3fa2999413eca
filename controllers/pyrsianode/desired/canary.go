package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/canary"
)

// canaryContainer is proven when it is ready.
func canaryContainer(n *v1alpha1.PyrsiaNode, m v1alpha1.Mirror) *coreac.ContainerApplyConfiguration {
	// The kubelet asks the frontend at the machine's own address.
	asked := func() *coreac.ProbeApplyConfiguration {
		return coreac.Probe().WithHTTPGet(coreac.HTTPGetAction().WithHost("127.0.0.1").WithPort(intstr.FromInt32(m.Port)).
			WithPath("/.well-known/pyrsia-canary/" + string(n.UID))).WithPeriodSeconds(10).WithTimeoutSeconds(5)
	}
	return coreac.Container().WithName(objects.ContainerCanary).
		WithImage(canary.Image(string(n.UID))).
		WithImagePullPolicy(corev1.PullAlways).
		WithReadinessProbe(asked().WithFailureThreshold(1)).
		WithLivenessProbe(asked().WithFailureThreshold(2)).
		WithResources(coreac.ResourceRequirements().WithRequests(corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("1m"),
			corev1.ResourceMemory: resource.MustParse("1Mi"),
		})).
		WithSecurityContext(restricted())
}

// maxUnavailable is how many of a mirror's pods may be unready during a roll-out:
// pods that will never become ready are added to what the spec says.
func (in Inputs) maxUnavailable(wanted intstr.IntOrString) intstr.IntOrString {
	vain := objects.CountIf(in.Pods, objects.HoldsUp)
	if vain == 0 {
		return wanted
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(&wanted, len(in.Pods), true)
	if err != nil {
		return wanted // the API server refuses it too
	}
	return intstr.FromInt32(int32(max(most, 1)) + vain)
}
