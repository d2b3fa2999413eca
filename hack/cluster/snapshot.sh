# shellcheck shell=bash
# snapshot FOLDER: writes down all that a cluster could leave behind on a machine. To be sourced.

snapshot() {
	mkdir -p "$1"
	processes >"$1/processes"
	ip -o link | sed 's/^[0-9]*: //' | sort >"$1/links"
	{ ip route show table all && ip -6 route show table all; } | sort >"$1/routes"
	# Who mounts what where; the numbers behind that change.
	cut -d' ' -f1-3 /proc/mounts | sort >"$1/mounts"
	cgroups | sort >"$1/cgroups"
	# Without what changes by itself.
	sysctl -a 2>/dev/null | sort |
		grep -vE '^(fs\.(dentry|file-nr|inode|aio-nr|quota)|kernel\.(ns_last_pid|random\.|pty\.nr)|net\.netfilter\.nf_conntrack_count)' >"$1/sysctls"
	nft --stateless list ruleset >"$1/nft"
	find /etc /opt /run /var/lib /usr/local -maxdepth 2 2>/dev/null | sort >"$1/files"
	# The binaries and the locks stay.
	find "$CACHE" -mindepth 1 -maxdepth 1 -name "run-$ID" >"$1/state"
}

# Starts no process itself, for it would be in the list.
processes() {
	local dir args
	for dir in /proc/[0-9]*; do
		mapfile -d '' args 2>/dev/null <"$dir/cmdline" || continue
		echo "${args[*]}"
	done
}

# Without the groups of other clusters, which may come and go meanwhile.
cgroups() {
	local dir
	find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d | while read -r dir; do
		[ -e "$CACHE/run-${dir##*/}" ] && [ "${dir##*/}" != "$ID" ] || echo "$dir"
	done
	find /sys/fs/cgroup -type d -path "*/$ID/*"
}

same_snapshots() { # before after
	local same=0
	diff -r --exclude=sysctls "$1" "$2" || same=1
	diff <(settings_in_both "$1" "$2") <(settings_in_both "$2" "$1") || same=1
	return $same
}

# A setting that was not there before belongs to a kernel module which is loaded by now: modules stay.
settings_in_both() { # folder other
	awk -F ' = ' 'NR == FNR { other[$1]; next } $1 in other' "$2/sysctls" "$1/sysctls"
}
