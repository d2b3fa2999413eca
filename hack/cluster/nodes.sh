# shellcheck shell=bash
# What one node needs on the host: its process, its link, its cgroups. To be sourced.

node_name() { # number
	[ "$1" = 0 ] && echo cp || echo "w$1"
}

node_number() { # name
	local i
	for i in $(seq 0 "$WORKERS"); do
		[ "$(node_name "$i")" != "$1" ] || { echo "$i" && return; }
	done
	fail "there is no node \"$1\": this cluster has cp, w1 ... w$WORKERS"
}

# node_pid prints the process id of a node's PID 1 and fails if it does not run.
node_pid() { # name
	local pid started stat
	read -r pid started 2>/dev/null <"$RUN/$1/pid" || return 1
	read -ra stat 2>/dev/null <"/proc/$pid/stat" || return 1
	# A zombie (Z) has ended, and a process with another start has only got the same number.
	[ "${stat[2]}" != Z ] && [ "${stat[21]}" = "$started" ] && echo "$pid"
}

# The folders in which groups can be made: one per controller with cgroups v1, else just one.
cgroup_roots() {
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		echo /sys/fs/cgroup
	else
		dirname /sys/fs/cgroup/*/cgroup.procs
	fi
}

make_cgroups() { # name
	local root dir c
	for root in $(cgroup_roots); do
		mkdir -p "$root/$ID/$1"
		[ -e "$root/cgroup.subtree_control" ] || continue
		# With cgroups v2, a group has only those controllers that its parents hand down.
		for dir in "$root" "$root/$ID"; do
			for c in $(<"$dir/cgroup.controllers"); do
				echo "+$c" 2>/dev/null >"$dir/cgroup.subtree_control" || true
			done
		done
	done
}

# Empty groups only: they are empty once the node's processes have ended.
remove_cgroups() { # name, or none for all of the cluster
	local root
	for root in $(cgroup_roots); do
		[ ! -d "$root/$ID/${1:-}" ] || find "$root/$ID/${1:-}" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
}

start_node() { # name
	local n=$1 i dir=$RUN/$1 pid
	i=$(node_number "$n")
	mkdir -p "$dir"/{etc,etc.work,tmp,log} "$dir"/var/{lib,tmp,log} "$RUN/pv"
	chmod 1777 "$dir/tmp" "$dir/var/tmp"
	ln -sfn /run "$dir/var/run"
	rm -f "$dir/pid"
	# With the groups of the last boot, kubelet takes 3 s more for each dead container.
	remove_cgroups "$n"
	make_cgroups "$n"
	# env -i: no proxy settings or the like of the caller in the node. 9 is the lock of the caller.
	env -i PATH="$NODE_PATH" KUBERNETES="$KUBERNETES" CACHE="$CACHE" RUN="$RUN" ID="$ID" NET="$NET" POD="$POD" CNI_BIN="$CNI_BIN" IMAGES="$IMAGES" EGRESS="$EGRESS" \
		FAMILIES="$FAMILIES" WORKERS="$WORKERS" CP_KUBELET="$CP_KUBELET" TAINTS="${TAINTS:-}" STOCK="${STOCK:-0}" NODE="$n" I="$i" \
		setsid unshare --mount --net --pid --uts --ipc --fork --kill-child --propagation private \
		"$HERE/node/main.sh" >"$dir/log/node.log" 2>&1 </dev/null 9>&- &
	wait_until 10 "node $n did not start: see $dir/log/node.log" node_pid "$n"
	pid=$(node_pid "$n")
	ip link del "$ID$n" 2>/dev/null || true
	# The same address at every start, else the others keep sending to the old one for 20 s.
	ip link add "$ID$n" type veth peer name eth0 address "02:00:00:00:00:$(printf %02x $((10 + i)))" netns "$pid"
	ip link set "$ID$n" master "$ID" up
}

# kill_node ends PID 1, and with it everything in the node at once.
kill_node() { # name
	local pid
	pid=$(node_pid "$1") || return 0
	kill -9 "$pid"
	wait_until 10 "node $1 (process $pid) does not end" node_gone "$1"
	ip link del "$ID$1" 2>/dev/null || true
}

node_gone() { # name
	! node_pid "$1"
}

in_node() { # name command...
	local pid
	pid=$(node_pid "$1") || fail "node $1 does not run: $0 start $1"
	PATH=$NODE_PATH nsenter -t "$pid" --mount --net --pid --uts --ipc -- "${@:2}"
}
