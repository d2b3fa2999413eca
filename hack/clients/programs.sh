#!/bin/bash
# programs.sh: prints a folder with Debian's containerd, dockerd, podman, skopeo and buildah, and the
# libraries that they need. They are unpacked into the cache and not installed, because the packages
# start services. Each program in bin/ finds its own files.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/../cluster/settings.sh"
[ "$(uname -s) $(id -u)" = "Linux 0" ] || fail "programs.sh: this needs Linux and root"
command -v apt-get >/dev/null || fail "programs.sh: this machine has no apt-get"

packages=(containerd docker.io podman skopeo buildah runc conmon
	golang-github-containers-common golang-github-containers-image
	libdevmapper1.02.1 libgpgme11 libassuan0 libseccomp2 libsubid4 libapparmor1)
programs=(containerd ctr containerd-shim-runc-v2 dockerd docker docker-proxy podman skopeo buildah runc conmon)

dir=$CACHE/clients-$(dpkg --print-architecture)-$(sha256sum <"${BASH_SOURCE[0]}" | cut -c1-12)
mkdir -p "$CACHE"
exec 8>"$CACHE/clients.lock"
flock 8
if [ ! -d "$dir" ]; then
	new=$dir.new log=$CACHE/clients.log
	rm -rf "$new"
	mkdir -p "$new/bin"
	cd "$new"
	download() { apt-get download -qq "${packages[@]}" >"$log" 2>&1; }
	say "downloading the container clients from Debian"
	download || {
		say "refreshing Debian's package lists, for that failed with the present ones"
		apt-get update -qq >"$log" 2>&1 || fail "apt-get update failed: see $log"
		download || fail "the download failed: see $log"
	}
	for deb in *.deb; do dpkg-deb -x "$deb" root; done
	rm -f ./*.deb
	lib=$dir/root/usr/lib/$(uname -m)-linux-gnu
	for p in "${programs[@]}"; do
		file=$(find root -type f -path "*bin/$p" | head -n 1)
		[ -n "$file" ] || fail "$p is not in its Debian package: see $new"
		printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$lib:$dir/root/lib/$(uname -m)-linux-gnu" "$dir/$file" >"bin/$p"
		chmod +x "bin/$p"
	done
	mv "$new" "$dir"
fi
echo "$dir"
