package desired

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// OpenURL is the open port of a node's pods, for clients in its cluster.
func OpenURL(namespace, name string) string {
	return fmt.Sprintf("http://%s.%s.svc:%d", name, namespace, PortOpen)
}

// Service is headless: it gives the pods names, and nothing in front of them.
func Service(n *v1alpha1.PyrsiaNode) *coreac.ServiceApplyConfiguration {
	ports := []*coreac.ServicePortApplyConfiguration{servicePort("p2p", PortP2P), servicePort("open", PortOpen), servicePort("control", control.Port)}
	if objects.OnPull(n) {
		ports = append(ports, servicePort("mirror", PortMirror))
	}
	return coreac.Service(n.Name, n.Namespace).
		WithLabels(objects.Labels(n, objects.Component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(coreac.ServiceSpec().
			WithClusterIP(corev1.ClusterIPNone).
			WithIPFamilyPolicy(corev1.IPFamilyPolicyPreferDualStack).
			WithPublishNotReadyAddresses(true).
			WithSelector(objects.Labels(n, objects.Component(n))).
			WithPorts(ports...))
}

func servicePort(name string, number int32) *coreac.ServicePortApplyConfiguration {
	return coreac.ServicePort().WithName(name).WithPort(number).
		WithTargetPort(intstr.FromString(name)).WithProtocol(corev1.ProtocolTCP)
}
