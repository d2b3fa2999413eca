// Package distributions is a table of where Kubernetes distributions keep the
// configuration of their container runtime, what happens to files that a mirror
// writes there, and which of them a mirror cannot set up, or not strictly. Each
// entry names the sources that it was read in; docs/distributions.md is made from
// it. It imports nothing of the project; node/cli and the operator's controllers
// call it.
package distributions

import (
	"fmt"
	"strings"
)

// Distribution is one of Kubernetes.
type Distribution struct {
	Name   string // as in spec.mirror.distribution
	CertsD string // containerd's folder of registries; empty if no mirror can set it up
	Config string // containerd's configuration
	// Note says what it needs, what removes what was written, and, if no mirror
	// can write it, what does.
	Note    string
	Sources []string
}

// All are those that are known, sorted by name.
var All = []Distribution{{
	Name:   "AKS",
	CertsD: "/etc/containerd/certs.d",
	Config: "/etc/containerd/config.toml",
	Note:   "An upgrade of the node image makes the machine anew: its mirror writes the folder again.",
	Sources: []string{
		"https://github.com/Azure/AgentBaker/blob/master/pkg/agent/baker.go",
		"https://learn.microsoft.com/en-us/azure/aks/node-image-upgrade",
	},
}, {
	Name: "Bottlerocket",
	Note: "It writes /etc from its own settings, and pods cannot. Set settings.container-registry.mirrors. It cannot be strict: the registry itself is asked when its mirrors fail.",
	Sources: []string{
		"https://bottlerocket.dev/en/os/1.20.x/api/settings/container-registry/",
		"https://github.com/bottlerocket-os/bottlerocket/issues/4437",
	},
}, {
	Name:   "EKS",
	CertsD: "/etc/containerd/certs.d",
	Config: "/etc/containerd/config.toml",
	Note: "Amazon Linux 2023. Its config_path is a list of two folders, which containerd's local pull reads; discard_unpacked_layers = true, which it has too, is what makes containerd 2.1 and newer use that pull. " +
		"Without it the list is taken for one folder: have a config_path of one folder then. A node is replaced, not upgraded: its mirror writes the folder again.",
	Sources: []string{
		"https://github.com/awslabs/amazon-eks-ami/blob/main/nodeadm/internal/containerd/config2.template.toml",
		"https://github.com/containerd/containerd/issues/12636",
	},
}, {
	Name: "GKE",
	Note: "Its nodes have no config_path of their own. Set registryHosts in the node pool's containerd configuration, of which GKE makes /etc/containerd/hosts.d. It cannot be strict: the name of the registry there is also the host that is asked when the mirror fails.",
	Sources: []string{
		"https://docs.cloud.google.com/kubernetes-engine/docs/how-to/customize-containerd-configuration",
		"https://docs.cloud.google.com/kubernetes-engine/docs/reference/rest/v1/ContainerdConfig",
		"https://github.com/spegel-org/spegel/issues/38",
	},
}, {
	Name:   "K0s",
	CertsD: "/etc/k0s/containerd.d/certs.d",
	Config: "/etc/k0s/containerd.toml",
	Note:   "It needs a drop-in, such as /etc/k0s/containerd.d/cri-registry.toml, with this config_path. A containerd.toml whose line k0s_managed=true was taken out reads no drop-ins.",
	Sources: []string{
		"https://docs.k0sproject.io/stable/runtime/",
	},
}, {
	Name:   "K3s",
	CertsD: "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
	Config: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
	Note: "At each start k3s makes the folders of all registries in /etc/rancher/k3s/registries.yaml anew, and removes what was in them: leave the mirror's registries out of that file. " +
		"Folders that it has not made stay.",
	Sources: []string{
		"https://docs.k3s.io/installation/private-registry",
		"https://github.com/k3s-io/k3s/blob/master/pkg/agent/containerd/config.go",
	},
}, {
	Name:   "Kind",
	CertsD: "/etc/containerd/certs.d",
	Config: "/etc/containerd/config.toml",
	Note:   "Node images of v0.27.0 and newer read it, older ones with a containerdConfigPatches for config_path. It goes with the node's container.",
	Sources: []string{
		"https://kind.sigs.k8s.io/docs/user/local-registry",
	},
}, {
	Name:   "Kubeadm",
	CertsD: "/etc/containerd/certs.d",
	Config: "/etc/containerd/config.toml",
	Note:   "kubeadm writes neither: config_path has to be set. That of containerd 2.2 and newer is a list by default, which its default pull takes for one folder: set this one alone.",
	Sources: []string{
		"https://github.com/containerd/containerd/blob/main/docs/hosts.md",
		"https://github.com/containerd/containerd/issues/12636",
	},
}, {
	Name:   "MicroK8s",
	CertsD: "/var/snap/microk8s/current/args/certs.d",
	Config: "/var/snap/microk8s/current/args/containerd.toml",
	Note:   "It comes with a hosts.toml for docker.io, which Fallback keeps below the mirror. A refresh of the snap goes on with a copy of the folder, and a revert with the copy from before.",
	Sources: []string{
		"https://github.com/canonical/microk8s/issues/3221",
		"https://github.com/canonical/microk8s/blob/master/microk8s-resources/default-args/certs.d/docker.io/hosts.toml",
		"https://snapcraft.io/docs/data-locations",
	},
}, {
	Name:   "Minikube",
	CertsD: "/etc/containerd/certs.d",
	Config: "/etc/containerd/config.toml",
	Note:   "With --container-runtime=containerd. Each start writes the hosts.toml of the registries that --insecure-registry names: name none of the mirror's.",
	Sources: []string{
		"https://github.com/kubernetes/minikube/blob/master/pkg/minikube/cruntime/containerd.go",
	},
}, {
	Name: "OpenShift",
	Note: "It runs CRI-O, which reads no hosts.toml, and its Machine Config Operator writes registries.conf. An ImageDigestMirrorSet and an ImageTagMirrorSet name the mirror; with mirrorSourcePolicy: NeverContactSource they are strict.",
	Sources: []string{
		"https://docs.redhat.com/en/documentation/openshift_container_platform/4.17/html/config_apis/imagedigestmirrorset-config-openshift-io-v1",
	},
}, {
	Name:   "RKE2",
	CertsD: "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
	Config: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
	Note:   "As with K3s, whose code makes the folders: leave the mirror's registries out of /etc/rancher/rke2/registries.yaml.",
	Sources: []string{
		"https://docs.rke2.io/install/containerd_registry_configuration",
		"https://github.com/rancher/rke2/issues/5658",
	},
}, {
	Name: "Talos",
	Note: "It makes /etc/cri/conf.d/hosts from its machine configuration, and /etc is read-only. A RegistryMirrorConfig names the mirror as an endpoint; with skipFallback: true it is strict.",
	Sources: []string{
		"https://docs.siderolabs.com/talos/v1.13/reference/configuration/cri/registrymirrorconfig.md",
		"https://github.com/siderolabs/talos/blob/main/internal/pkg/containers/cri/containerd/hosts.go",
		"https://github.com/spegel-org/spegel/issues/638",
	},
}}

// Find finds a distribution, in whatever case its name is written. That which no
// mirror can set up is an error that says what does.
func Find(name string) (Distribution, error) {
	var names []string
	for _, d := range All {
		switch {
		case !strings.EqualFold(d.Name, name):
			names = append(names, d.Name)
		case d.CertsD == "":
			return d, fmt.Errorf("containerd on %s cannot be set up from here: %s (%s)", d.Name, d.Note, d.Sources[0])
		default:
			return d, nil
		}
	}
	return Distribution{}, fmt.Errorf("%q is none of the known distributions: %s", name, strings.Join(names, ", "))
}
