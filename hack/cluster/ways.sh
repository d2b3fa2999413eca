# shellcheck shell=bash
# The ways through the host: between the nodes, and with EGRESS=1 out of the cluster. To be sourced.

# open_ways notes in $RUN what it changes on the host; close_ways puts that back.
open_ways() {
	# Without it, a service whose pod is on the asking pod's own node does not answer. Modules stay.
	[ -e /proc/sys/net/bridge ] || modprobe br_netfilter 2>/dev/null || true
	# A host that forwards nothing of its own accord, as container engines set it up, would drop
	# what goes from node to node.
	local tables
	for tables in iptables ip6tables; do
		$tables -S FORWARD 2>/dev/null | grep -qx -- '-P FORWARD DROP' || continue
		touch "$RUN/forward-$tables"
		$tables -I FORWARD -i "$ID" -j ACCEPT
		$tables -I FORWARD -o "$ID" -j ACCEPT
	done
	[ "$EGRESS" = 1 ] || return 0
	local resolv=/etc/resolv.conf
	# A resolver on the host's loopback is out of a pod's reach; systemd-resolved tells the real ones.
	! grep -q '^nameserver 127\.' $resolv || resolv=/run/systemd/resolve/resolv.conf
	cp "$resolv" "$RUN/resolv.conf" || fail "EGRESS=1: found no resolver that pods could reach"
	sysctl -n net.ipv4.ip_forward >"$RUN/ip_forward"
	sysctl -qw net.ipv4.ip_forward=1
	nft -f - <<-EOT
		table ip $ID {
		  chain egress {
		    type nat hook postrouting priority srcnat;
		    ip saddr { $NET.0/24, $POD.0.0/16 } ip daddr != { $NET.0/24, $POD.0.0/16 } masquerade
		  }
		}
	EOT
}

close_ways() {
	local tables
	for tables in iptables ip6tables; do
		[ -e "$RUN/forward-$tables" ] || continue
		$tables -D FORWARD -i "$ID" -j ACCEPT 2>/dev/null || true
		$tables -D FORWARD -o "$ID" -j ACCEPT 2>/dev/null || true
	done
	[ -e "$RUN/ip_forward" ] || return 0
	nft delete table ip "$ID" 2>/dev/null || true
	sysctl -qw "net.ipv4.ip_forward=$(<"$RUN/ip_forward")"
}
