#!/bin/bash
# PID 1 of one node, in namespaces of its own (mount, net, pid, uts, ipc). nodes.sh starts it with
# the settings, NODE (its name), I (its number) and what programs it needs on the PATH.
# $RUN/$NODE holds what a real node has on its disk (etc, var, tmp) and its logs (log).
here=$(dirname "${BASH_SOURCE[0]}")
for part in control-plane storage worker; do
	# shellcheck source=/dev/null
	. "$here/$part.sh"
done
# shellcheck source=/dev/null
. "$here/../families.sh"
export N=$RUN/$NODE PKI=$RUN/pki
IP=$(first address $((10 + I)))
export IP

# /proc is still the host's, so this is what the host calls this process; with the time of its start
# (field 22) the number is never mistaken for a later process.
read -ra stat </proc/self/stat
echo "${stat[0]} ${stat[21]}" >"$N/pid"

# /etc is a copy on write, /run is empty as after a boot, /proc, /var and /tmp are the node's own.
# The cache is put back where it was after that, should it lie in /var or /tmp (-c: mount takes the
# path as it is).
file_systems() {
	exec 7<"$CACHE"
	cd "$N" || exit
	mount -t proc proc /proc
	mount --make-rshared /
	mount -t overlay -o "lowerdir=/etc,upperdir=$N/etc,workdir=$N/etc.work" overlay /etc
	mount -t tmpfs -o mode=755 tmpfs /run
	mount -c --bind var /var
	mount -c --bind tmp /tmp
	mkdir -p "$CACHE"
	mount -c --bind /proc/self/fd/7 "$CACHE"
	cd / || exit
	exec 7<&-
}

# A boot id per start and a machine id per node, as on real machines.
identity() {
	cat /proc/sys/kernel/random/uuid >/run/boot_id
	cp /run/boot_id "$N/boot_id"
	mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
	echo "$ID-$NODE" | md5sum | cut -c1-32 >/etc/machine-id
	hostname "$NODE"
}

# Kubelet insists on these and would write them, but they belong to the whole machine: it finds
# files of its own instead.
sysctls() {
	local f v
	mkdir -p /run/sysctl
	while read -r f v; do
		echo "$v" >"/run/sysctl/${f##*/}"
		mount --bind "/run/sysctl/${f##*/}" "/proc/sys/$f"
	done <<-EOT
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	EOT
}

# eth0 on the bridge, and a route to each other node's pods.
network() {
	local i f
	ip link set lo up
	for i in $(seq 500); do
		! ip link set eth0 up 2>/dev/null || break
		sleep 0.02
	done
	for f in $(families); do
		add_address "$f" $((10 + I)) eth0
		# Without this one, and without a default route, a service's address would be "unreachable"
		# before kube-proxy's rules see it.
		ip route add "$(services "$f")" dev eth0
	done
	for i in $(seq 0 "$WORKERS"); do
		[ "$i" = "$I" ] || route_pods "$i"
	done
	sysctl -qw net.ipv4.ip_forward=1
	[[ $FAMILIES != *ipv6* ]] || sysctl -qw net.ipv6.conf.all.forwarding=1
	if [ "$EGRESS" = 1 ]; then
		ip route add default via "$NET.1"
		cp "$RUN/resolv.conf" /run/resolv.conf
	else
		echo "nameserver 192.0.2.254" >/run/resolv.conf
	fi
}

start() { # name command...
	"${@:2}" >"$N/log/$1.log" 2>&1 &
}

file_systems
identity
sysctls
network
[ "$I" != 0 ] || control_plane
[ "$I$CP_KUBELET" = 00 ] || worker
trap 'exit 0' TERM
# This also reaps what is left to PID 1.
while :; do
	sleep 3600 &
	wait
done
