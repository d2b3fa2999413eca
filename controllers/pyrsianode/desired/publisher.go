package desired

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
)

// defaultVolumeSize is the size of a publisher's volume.
var defaultVolumeSize = resource.MustParse("20Gi")

// StatefulSet is the workload of a publisher: one pod with its volume.
func StatefulSet(n *v1alpha1.PyrsiaNode, in Inputs) *appsac.StatefulSetApplyConfiguration {
	args := []string{"--signing-key", "/signing/" + SigningKeyFile}
	current, next := KeyGenerations(n)
	if next != 0 {
		args = append(args, "--next-signing-key", "/next-signing/"+SigningKeyFile)
	}
	if p := n.Spec.Publisher; p != nil {
		for _, u := range p.Upstreams {
			args = append(args, "--upstream", u.Registry+"="+u.Endpoint)
			for _, repository := range u.PrivateRepositories {
				args = append(args, "--upstream-private", u.Registry+"/"+repository)
			}
		}
		if p.Concurrency > 0 {
			args = append(args, "--copy-concurrency", fmt.Sprint(p.Concurrency))
		}
		if p.UpstreamBandwidth != nil {
			args = append(args, "--upstream-limit", fmt.Sprint(p.UpstreamBandwidth.Value()))
		}
	}
	args = append(args, onPullArgs(n)...)
	args = append(args, bucketArgs(n)...)
	secrets := upstreamSecrets(n)
	if len(secrets) > 0 {
		args = append(args, "--upstream-secrets", UpstreamSecretsPath)
	}
	template := podTemplate(n, in, args)
	if objects.OnPull(n) {
		template.Spec.Containers[0].WithPorts(coreac.ContainerPort().WithName("mirror").
			WithContainerPort(PortMirror).WithProtocol(corev1.ProtocolTCP))
	}
	for _, s := range secrets {
		template.Spec.WithVolumes(s.volume)
		template.Spec.Containers[0].WithVolumeMounts(s.mount)
	}
	mountBucketSecrets(template.Spec, n)
	mountSigningKey(template.Spec, "signing", SigningSecretName(n, current))
	if next != 0 {
		mountSigningKey(template.Spec, "next-signing", SigningSecretName(n, next))
	}
	if p := n.Spec.Publisher; p != nil && p.RestoreFrom != nil {
		restoreLedger(template.Spec, n, in)
	}

	return appsac.StatefulSet(n.Name, n.Namespace).
		WithLabels(objects.Labels(n, objects.Component(n))).
		WithOwnerReferences(ownerReference(n)).
		WithSpec(appsac.StatefulSetSpec().
			WithReplicas(1).
			WithServiceName(n.Name).
			WithSelector(metaac.LabelSelector().WithMatchLabels(objects.Labels(n, objects.Component(n)))).
			WithTemplate(template).
			WithVolumeClaimTemplates(volumeClaim(n)))
}

// mountSigningKey puts a signing key at /NAME/signing.key.
func mountSigningKey(spec *coreac.PodSpecApplyConfiguration, name, secret string) {
	spec.WithVolumes(coreac.Volume().WithName(name).
		WithSecret(coreac.SecretVolumeSource().WithSecretName(secret).WithDefaultMode(0o440).
			WithItems(coreac.KeyToPath().WithKey(SigningKeyFile).WithPath(SigningKeyFile))))
	spec.Containers[0].WithVolumeMounts(coreac.VolumeMount().WithName(name).WithMountPath("/" + name).WithReadOnly(true))
}

// restoreLedger copies what other nodes have beyond the publisher's own ledger,
// before it starts. It needs no privilege.
func restoreLedger(spec *coreac.PodSpecApplyConfiguration, n *v1alpha1.PyrsiaNode, in Inputs) {
	args := []string{"restore", "--data", "/data", "--signing-key", "/signing/" + SigningKeyFile, "--best-effort"}
	mounts := []*coreac.VolumeMountApplyConfiguration{
		coreac.VolumeMount().WithName("data").WithMountPath("/data"),
		coreac.VolumeMount().WithName("signing").WithMountPath("/signing").WithReadOnly(true),
	}
	if _, next := KeyGenerations(n); next != 0 {
		args = append(args, "--next-signing-key", "/next-signing/"+SigningKeyFile)
		mounts = append(mounts, coreac.VolumeMount().WithName("next-signing").WithMountPath("/next-signing").WithReadOnly(true))
	}
	from := n.Spec.Publisher.RestoreFrom
	if from.MirrorRef != nil {
		args = append(args, "--from", OpenURL(n.Namespace, from.MirrorRef.Name))
	}
	for _, url := range from.URLs {
		args = append(args, "--from", url)
	}
	spec.WithInitContainers(initContainer(n, in, "restore").WithImage(NodeImage(n, in)).WithArgs(args...).WithSecurityContext(restricted()).
		WithVolumeMounts(mounts...))
}

func volumeSize(n *v1alpha1.PyrsiaNode) resource.Quantity {
	if n.Spec.Storage.Size != nil {
		return *n.Spec.Storage.Size
	}
	return defaultVolumeSize
}

// volumeClaim spells out what the API server would fill in, because it owns
// the list as a whole: else the set would look changed for ever.
func volumeClaim(n *v1alpha1.PyrsiaNode) *coreac.PersistentVolumeClaimApplyConfiguration {
	spec := coreac.PersistentVolumeClaimSpec().
		WithAccessModes(corev1.ReadWriteOnce).
		WithVolumeMode(corev1.PersistentVolumeFilesystem).
		WithResources(coreac.VolumeResourceRequirements().WithRequests(corev1.ResourceList{corev1.ResourceStorage: volumeSize(n)}))
	if class := n.Spec.Storage.StorageClassName; class != nil {
		spec.WithStorageClassName(*class)
	}
	claim := coreac.PersistentVolumeClaim("data", "").
		WithSpec(spec).
		WithStatus(coreac.PersistentVolumeClaimStatus().WithPhase(corev1.ClaimPending))
	claim.Namespace, claim.Kind, claim.APIVersion = nil, nil, nil
	return claim
}

// ExtractStatefulSet is without what some API servers add to volume claims,
// and others take away.
func ExtractStatefulSet(live *appsv1.StatefulSet, manager string) (*appsac.StatefulSetApplyConfiguration, error) {
	owned, err := appsac.ExtractStatefulSet(live, manager)
	if err != nil || owned.Spec == nil {
		return owned, err
	}
	for i := range owned.Spec.VolumeClaimTemplates {
		owned.Spec.VolumeClaimTemplates[i].Kind, owned.Spec.VolumeClaimTemplates[i].APIVersion = nil, nil
	}
	return owned, nil
}

// BootstrapAddress is where other nodes of the cluster join the publisher: at the
// addresses of whichever families it has.
func BootstrapAddress(n *v1alpha1.PyrsiaNode, peerID string) string {
	return fmt.Sprintf("/dns/%s.%s.svc/tcp/%d/p2p/%s", n.Name, n.Namespace, PortP2P, peerID)
}
