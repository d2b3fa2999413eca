#!/bin/bash
# debian.sh: prints a folder with Debian's docker-registry and a static busybox. They are unpacked
# into the cache and not installed, because the package docker-registry starts a service.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/settings.sh"
[ "$(uname -s) $(id -u)" = "Linux 0" ] || fail "debian.sh: this needs Linux and root"
command -v apt-get >/dev/null || fail "debian.sh: this machine has no apt-get"

dir=$CACHE/debian-$(dpkg --print-architecture)
mkdir -p "$CACHE"
exec 8>"$CACHE/debian.lock"
flock 8
if [ ! -d "$dir" ]; then
	new=$dir.new log=$CACHE/debian.log
	rm -rf "$new"
	mkdir -p "$new/bin"
	cd "$new"
	download() { apt-get download -qq docker-registry busybox-static >"$log" 2>&1; }
	say "downloading docker-registry and busybox-static from Debian"
	download || {
		say "refreshing Debian's package lists, for that failed with the present ones"
		apt-get update -qq >"$log" 2>&1 || fail "apt-get update failed: see $log"
		download || fail "the download failed: see $log"
	}
	for deb in *.deb; do dpkg-deb -x "$deb" root; done
	# In /bin or /usr/bin, depending on the release; /etc/init.d has another docker-registry.
	find root -type f \( -path '*/bin/docker-registry' -o -path '*/bin/busybox' \) -exec mv -t bin {} +
	for p in docker-registry busybox; do
		[ -x "bin/$p" ] || fail "$p is not in its Debian package: see $new"
	done
	rm -rf root ./*.deb
	mv "$new" "$dir"
fi
echo "$dir/bin"
