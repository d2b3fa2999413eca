# shellcheck shell=bash
# up: from nothing, or from the remains of a cluster, to one that runs. To be sourced.

up() {
	[[ $EGRESS = 0 || $FAMILIES = *ipv4* ]] || fail "EGRESS=1: nothing leaves a cluster without IPv4"
	"$HERE/packages.sh"
	if is_up; then
		say "already up: export KUBECONFIG=$KUBECONFIG"
		return
	fi
	if leftovers; then
		say "removing what is left of a cluster that does not run, or not with these settings"
		down
	fi
	build_all
	check_disk
	mkdir -p "$RUN"
	save_settings
	make_keys
	say "keys made"
	boot
	wait_until 120 "the API server did not become ready: see $RUN/cp/log/apiserver.log" \
		kubectl get --raw /readyz --request-timeout=2s
	say "API server ready"
	wait_until 60 "the controller manager does nothing: see $RUN/cp/log/controller-manager.log" \
		kubectl -n default get serviceaccount default
	manifests | kubectl apply -f - >/dev/null
	wait_for_nodes
	say "nodes Ready"
	kubectl -n kube-system rollout status deploy/coredns --timeout=120s >/dev/null ||
		fail "CoreDNS did not become ready: kubectl -n kube-system describe pods"
	say "DNS ready: export KUBECONFIG=$KUBECONFIG"
}

# The settings of the cluster that runs are those to go by until it is down.
save_settings() {
	local v
	for v in KUBERNETES WORKERS NET POD FAMILIES CP_KUBELET CNI_BIN EGRESS NODE_PATH IMAGES; do
		printf '%s=%q\n' "$v" "${!v}"
	done >"$RUN/settings"
}

is_up() {
	local i
	[ -e "$RUN/settings" ] && ip link show "$ID" >/dev/null 2>&1 || return 1
	for i in KUBERNETES WORKERS NET POD FAMILIES CP_KUBELET EGRESS; do
		grep -qxF "$i=$(printf %q "${!i}")" "$RUN/settings" || return 1
	done
	load_settings
	for i in $(seq 0 "$WORKERS"); do
		node_pid "$(node_name "$i")" >/dev/null || return 1
	done
	kubectl get --raw /readyz --request-timeout=5s >/dev/null 2>&1 || return 1
	for i in $(seq $((1 - CP_KUBELET)) "$WORKERS"); do
		node_ready "$(node_name "$i")" || return 1
	done
}

leftovers() { [ -e "$RUN" ] || ip link show "$ID" >/dev/null 2>&1; }

# The nodes' /etc and their containers are overlays on this disk.
check_disk() {
	mkdir -p "$CACHE/disk-check"/{lower,upper,work,all}
	unshare --mount mount -t overlay overlay "$CACHE/disk-check/all" \
		-o "lowerdir=$CACHE/disk-check/lower,upperdir=$CACHE/disk-check/upper,workdir=$CACHE/disk-check/work" ||
		fail "$CACHE is on a file system that takes no overlay: set PYRSIA_CACHE to a folder on another one"
	rm -rf "$CACHE/disk-check"
}

boot() {
	local i f
	ip link add "$ID" type bridge
	for f in $(families); do add_address "$f" 1 "$ID"; done
	ip link set "$ID" up
	open_ways
	for i in $(seq 0 "$WORKERS"); do
		# So that the host reaches the pods. The routes go when the bridge goes.
		route_pods "$i"
		start_node "$(node_name "$i")"
	done
	say "nodes started"
}

# With egress, names that are not the cluster's are for the host's resolvers.
manifests() {
	local forward=
	[ "$EGRESS" != 1 ] || forward="forward . /etc/resolv.conf"
	sed -s "1i---
		s|# FORWARD|$forward|
		s|CLUSTER_DNS|$(first service 10)|" "$HERE"/manifests/*.yaml
}

wait_for_nodes() {
	local i n
	for i in $(seq $((1 - CP_KUBELET)) "$WORKERS"); do
		n=$(node_name "$i")
		wait_until 120 "node $n did not become Ready: see $RUN/$n/log/kubelet.log" node_ready "$n"
	done
	# A kubelet may not give itself this role.
	[ "$CP_KUBELET" != 1 ] || kubectl label node cp node-role.kubernetes.io/control-plane= >/dev/null
}

# Ready, and not just by the memory of the node's last boot.
node_ready() { # name
	[ "$(kubectl get node "$1" --request-timeout=5s \
		-o jsonpath='{.status.nodeInfo.bootID} {.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = \
		"$(<"$RUN/$1/boot_id") True" ]
}
