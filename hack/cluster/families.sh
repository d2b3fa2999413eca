# shellcheck shell=bash
# The addresses of the cluster's families, IPv4 and IPv6. To be sourced, where FAMILIES, NET and POD
# are set. Whatever has one address only has it of the first family.

families() { echo "${FAMILIES//,/ }"; }

# each prints what a function says of each family, with commas.
each() { # function argument...
	local f all=
	for f in $(families); do all+=,$("$1" "$f" "${@:2}"); done
	echo "${all#,}"
}

first() { "$1" "${FAMILIES%%,*}" "${@:2}"; } # function argument...

# in_url is an address as it stands in a URL.
in_url() { [[ $1 != *:* ]] && echo "$1" || echo "[$1]"; }

# address is the one of a machine in the nodes' network: the host is 1, node i is 10+i.
address() { # family number
	[ "$1" = ipv4 ] && echo "$NET.$2" || printf 'fd99:%s::%x\n' "${NET//./:}" "$2"
}

# pods are the addresses of one node's pods, and all_pods those of all.
pods() { # family node
	[ "$1" = ipv4 ] && echo "$POD.$2.0/24" || echo "fd98:${POD//./:}:$2::/64"
}
all_pods() { # family
	[ "$1" = ipv4 ] && echo "$POD.0.0/16" || echo "fd98:${POD//./:}::/48"
}

# services are the addresses of Services, and service is one of them.
services() { # family
	[ "$1" = ipv4 ] && echo 10.96.0.0/16 || echo fd97:10:96::/112
}
service() { # family number
	[ "$1" = ipv4 ] && echo "10.96.0.$2" || printf 'fd97:10:96::%x\n' "$2"
}

# add_address gives a device of this machine, or node, its address in the nodes' network.
add_address() { # family number device
	if [ "$1" = ipv4 ]; then
		ip addr add "$(address "$1" "$2")/24" dev "$3"
	else
		# Nobody else has it, so there is nothing to wait for.
		ip addr add "$(address "$1" "$2")/64" dev "$3" nodad
	fi
}

# route_pods adds the ways to a node's pods.
route_pods() { # node command...
	local f
	for f in $(families); do
		"${@:2}" ip route add "$(pods "$f" "$1")" via "$(address "$f" $((10 + $1)))"
	done
}
