#!/bin/bash
# rootfs.sh: prints the name of a .tar.gz with a root file system of this machine's Debian release,
# made by debootstrap and kept in the cache. It takes about a minute once.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/settings.sh"
# shellcheck source=/dev/null
. /etc/os-release
[ "$(uname -s) $(id -u)" = "Linux 0" ] || fail "rootfs.sh: this needs Linux and root"
[ "${ID:-} ${VERSION_CODENAME:+release}" = "debian release" ] || fail "rootfs.sh: this needs a Debian release"

suite=$VERSION_CODENAME
out=$CACHE/debian-$suite-$(dpkg --print-architecture).tar.gz
mkdir -p "$CACHE"
exec 8>"$CACHE/rootfs.lock"
flock 8
if [ ! -f "$out" ]; then
	root=$CACHE/rootfs.new log=$CACHE/rootfs.log
	rm -rf "$root"
	command -v debootstrap >/dev/null || {
		say "installing debootstrap"
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends debootstrap >"$log" 2>&1 || {
			apt-get update -qq >"$log" 2>&1
			DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends debootstrap >"$log" 2>&1
		} || fail "installing debootstrap failed: see $log"
	}
	say "making a root file system of Debian $suite with debootstrap"
	# The bound is for a mirror that stalls: it takes a third of it on a busy machine.
	timeout 600 debootstrap --variant=minbase "$suite" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$log" 2>&1 ||
		fail "debootstrap failed: see $log"
	tar -C "$root" --sort=name --numeric-owner --exclude='./dev/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
		--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' -c . | gzip -1 >"$out.new"
	rm -rf "$root"
	mv "$out.new" "$out"
fi
echo "$out"
