#!/bin/bash
# debian.sh: prints a folder with Debian's docker-registry and a static busybox.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/settings.sh"
# shellcheck source=/dev/null
. "$HERE/unpack.sh"

fill() {
	local p
	# In /bin or /usr/bin, depending on the release; /etc/init.d has another docker-registry.
	find root -type f \( -path '*/bin/docker-registry' -o -path '*/bin/busybox' \) -exec mv -t bin {} +
	for p in docker-registry busybox; do needed "$p" "bin/$p"; done
	rm -rf root
}

dir=
unpack debian "$(declare -f fill | sha256sum | cut -c1-12)" docker-registry busybox-static
echo "$dir/bin"
