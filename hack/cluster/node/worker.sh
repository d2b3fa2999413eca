# shellcheck shell=bash
# worker: containerd, kube-proxy and kubelet. Sourced by main.sh.

containerd_config() {
	# What was changed there since the node's first boot is on its disk.
	[ ! -e "$N/etc/containerd/config.toml" ] || return 0
	mkdir -p /etc/containerd
	cat >/etc/containerd/config.toml <<-EOT
		version = 3
		oom_score = 0
		# It would make /opt/containerd, which is the machine's.
		disabled_plugins = ["io.containerd.internal.v1.opt"]
		[plugins."io.containerd.cri.v1.images"]
		  [plugins."io.containerd.cri.v1.images".pinned_images]
		    sandbox = "cluster.local/pause:1"
		[plugins."io.containerd.cri.v1.runtime"]
		  # Where this machine is a container itself, even root may not lower a score.
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		  [plugins."io.containerd.cri.v1.runtime".cni]
		    bin_dirs = ["$CNI_BIN"]
		    conf_dir = "/etc/cni/net.d"
	EOT
	[ "$STOCK" != 1 ] || return 0
	mkdir -p /etc/containerd/certs.d
	cat >>/etc/containerd/config.toml <<-EOT
		[plugins."io.containerd.cri.v1.images".registry]
		  config_path = "/etc/containerd/certs.d"
	EOT
}

# Of one family.
cni_range() { echo "[{\"subnet\": \"$(pods "$1" "$I")\"}]"; }
cni_route() { [ "$1" = ipv4 ] && echo '{"dst": "0.0.0.0/0"}' || echo '{"dst": "::/0"}'; }

# dataDir is in /run so that the addresses of the pods of the last boot are free again. There is no
# ipMasq, so that pods keep their address on the way to other nodes.
cni_config() {
	mkdir -p /etc/cni/net.d
	cat >/etc/cni/net.d/10-bridge.conflist <<-EOT
		{"cniVersion": "1.0.0", "name": "$ID", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
		            "ranges": [$(each cni_range)], "routes": [$(each cni_route)]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	EOT
}

# before MINOR: the release of Kubernetes is older than 1.MINOR.
before() {
	local minor
	IFS=. read -r _ minor _ <<<"$KUBERNETES"
	[ -n "$minor" ] && ((minor < $1))
}

kubelet_config() {
	# The root of the cgroups is the node's own, because kubelet removes pods' cgroups that it does
	# not know. An old kubelet leaves out the fields that it does not know.
	cat >/run/node/kubelet.yaml <<-EOT
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
		authorization: {mode: Webhook}
		tlsCertFile: $PKI/$NODE.crt
		tlsPrivateKeyFile: $PKI/$NODE.key
		cgroupDriver: cgroupfs
		cgroupRoot: /$ID/$NODE
		failCgroupV1: false
		failSwapOn: false
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		serializeImagePulls: false
		clusterDNS: ["$(first service 10)"]
		clusterDomain: cluster.local
		resolvConf: /run/resolv.conf
		evictionHard: {memory.available: "50Mi", nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
		oomScoreAdj: 0
		nodeStatusUpdateFrequency: 4s
		staticPodPath: /etc/kubernetes/manifests
	EOT
	# Kubelet would verify by a pull that a pod may use an image if it once pulled the same content under
	# another name, and what was loaded cannot be pulled. Before 1.35 it does not, and refuses the setting.
	before 35 || echo 'imagePullCredentialsVerificationPolicy: NeverVerify' >>/run/node/kubelet.yaml
	[ "$I" != 0 ] || echo 'registerWithTaints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]' >>/run/node/kubelet.yaml
}

# The sizes of conntrack's tables belong to the whole machine: 0 leaves them alone.
proxy_config() {
	cat >/run/node/proxy.yaml <<-EOT
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: nftables
		clusterCIDR: "$(each all_pods)"
		hostnameOverride: $NODE
		clientConnection: {kubeconfig: $RUN/proxy.kubeconfig}
		conntrack: {maxPerCore: 0, min: 0}
	EOT
	# Later releases allow this mode by themselves.
	! before 31 || echo 'featureGates: {NFTablesProxyMode: true}' >>/run/node/proxy.yaml
}

import_images() {
	local image end=$((SECONDS + 30))
	until ctr version >/dev/null 2>&1 || ((SECONDS >= end)); do sleep 0.1; done
	# The node's disk still has them after the first boot.
	[ ! -e /var/lib/imported ] || return 0
	for image in "$IMAGES"/*.tar "$N"/images/*.tar; do
		[ -e "$image" ] || continue # no archive was given to this node
		ctr -n k8s.io images import "$image" || return
	done
	touch /var/lib/imported
}

worker() {
	local kubelet=(kubelet --config=/run/node/kubelet.yaml --kubeconfig="$RUN/$NODE.kubeconfig"
		--hostname-override="$NODE" --node-ip="$(each address $((10 + I)))")
	# It would take the place of the configuration's taints.
	[ -z "$TAINTS" ] || kubelet+=(--register-with-taints="$TAINTS")
	mkdir -p /run/node /etc/kubernetes/manifests
	containerd_config
	cni_config
	kubelet_config
	proxy_config
	start containerd containerd
	import_images
	# Both retry by themselves, but with growing pauses.
	api_ready
	start proxy kube-proxy --config=/run/node/proxy.yaml
	start kubelet "${kubelet[@]}"
}
