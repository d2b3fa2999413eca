# shellcheck shell=bash
# Settings from the environment, and what every script here needs. To be sourced.

# The release of Kubernetes, such as 1.30.14. Empty: that of kube/go.mod.
export KUBERNETES=${KUBERNETES:-}
# How many workers: w1, w2, ...
export WORKERS=${WORKERS:-2}
# Name of the bridge and of the cgroups, and beginning of the links' names: two clusters that differ
# in it, in NET and in POD run side by side.
export ID=${ID:-pyr}
# The nodes' network, a /24: the host is .1, node i is .(10+i), the control plane being node 0.
export NET=${NET:-10.99.0}
# The pods' network, a /16: the pods of node i are in $POD.i.0/24.
export POD=${POD:-10.244}
# Of which families nodes, pods and Services have addresses: ipv4, ipv6, or "ipv4,ipv6", the first one
# before the other. Those of IPv6 are made from NET and POD.
export FAMILIES=${FAMILIES:-ipv4}
# 1: the control plane runs a kubelet too, with the usual taint.
export CP_KUBELET=${CP_KUBELET:-1}
# 1: pods reach what this machine reaches, the internet too. Else nothing leaves the cluster.
export EGRESS=${EGRESS:-0}
# Where the CNI plugins are (bridge, host-local, loopback, portmap).
export CNI_BIN=${CNI_BIN:-/usr/lib/cni}

export CACHE=${PYRSIA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pyrsia-operator}/cluster
# What a cluster leaves on the disk while it is up: keys, and what would be on the nodes' disks.
export RUN=$CACHE/run-$ID

# /usr/sbin is not on everybody's PATH.
export PATH=$PATH:/usr/sbin:/sbin

# Progress and errors go to stderr, for stdout is for what other scripts read.
START=${START:-$(date +%s%N)}
export START
say() {
	local ms=$((($(date +%s%N) - START) / 1000000))
	printf '%4d.%ds %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*" >&2
}
fail() {
	echo "$*" >&2
	exit 1
}
