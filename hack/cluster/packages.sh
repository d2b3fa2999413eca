#!/bin/bash
# packages.sh: installs the Debian packages that the cluster needs and that are not there yet. None
# of them starts a daemon.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/settings.sh"

# One at a time: whoever comes second finds what the first has installed.
mkdir -p "$CACHE"
exec 8>"$CACHE/packages.lock"
flock 8
# conntrack is for the kube-proxy of Kubernetes 1.31 and older.
missing=()
while read -r package what; do
	command -v "$what" >/dev/null || missing+=("$package")
done <<EOT
containernetworking-plugins $CNI_BIN/portmap
conntrack conntrack
curl curl
iproute2 ip
iptables iptables
mount mount
nftables nft
openssl openssl
procps sysctl
runc runc
util-linux nsenter
EOT
[ ${#missing[@]} != 0 ] || exit 0

command -v apt-get >/dev/null || fail "this machine has no apt-get: install what these Debian packages have: ${missing[*]}"
install() { DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
log=$CACHE/packages.log
say "installing what the nodes need from Debian: ${missing[*]}"
install || {
	say "refreshing Debian's package lists, for that failed with the present ones"
	apt-get update -qq >"$log" 2>&1 || fail "apt-get update failed: see $log"
	install || fail "installing ${missing[*]} failed: see $log"
}
