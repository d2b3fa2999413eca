#!/bin/bash
# programs.sh: prints a folder with Debian's containerd, dockerd, podman, skopeo and buildah, and the
# libraries that they need. Each program in bin/ finds its own files.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/../cluster/settings.sh"
# shellcheck source=/dev/null
. "$HERE/../cluster/unpack.sh"

packages=(containerd docker.io podman skopeo buildah runc conmon
	golang-github-containers-common golang-github-containers-image
	libdevmapper1.02.1 libgpgme11 libassuan0 libseccomp2 libsubid4 libapparmor1)
programs=(containerd ctr containerd-shim-runc-v2 dockerd docker docker-proxy podman skopeo buildah runc conmon)

fill() {
	local p file lib dir=$1
	lib=$dir/root/usr/lib/$(uname -m)-linux-gnu
	for p in "${programs[@]}"; do
		file=$(find root -type f -path "*bin/$p" | head -n 1)
		needed "$p" "$file"
		printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$lib:$dir/root/lib/$(uname -m)-linux-gnu" "$dir/$file" >"bin/$p"
		chmod +x "bin/$p"
	done
}

dir=
unpack clients "$(sha256sum <"${BASH_SOURCE[0]}" | cut -c1-12)" "${packages[@]}"
echo "$dir"
