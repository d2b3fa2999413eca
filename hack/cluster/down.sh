# shellcheck shell=bash
# down: ends the cluster and removes all that it made, whatever state it is in. To be sourced.

down() {
	local dir n link
	for dir in "$RUN"/*/log; do
		n=$(basename "$(dirname "$dir")")
		kill_node "$n"
	done
	# In the order in which the kernel likes them: an end of a link, then the bridge with its routes.
	for link in /sys/class/net/"$ID"/brif/*; do
		[ ! -e "$link" ] || ip link del "${link##*/}"
	done
	ip link del "$ID" 2>/dev/null || true
	close_ways
	wait_until 10 "the control groups under $ID are not empty" no_cgroups
	rm -rf "$RUN"
}

no_cgroups() {
	local root
	remove_cgroups
	for root in $(cgroup_roots); do
		[ ! -e "$root/$ID" ] || return 1
	done
}
