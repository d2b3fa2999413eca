#!/bin/bash
# fetch.sh: gets what the demo has from the network, in the background while its programs are
# compiled. Each step gets what it lacks by itself: what fails here is told there.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
exec >/dev/null 2>&1
# shellcheck source=/dev/null
. hack/cluster/settings.sh
# The root file system comes last: who has one has had all the rest once.
if [ "$(uname -s) $(id -u)" != "Linux 0" ] || compgen -G "$CACHE/debian-*.tar.gz"; then exit 0; fi

modules() { # folder packages...
	(cd "$1" && GOWORK=off go list -deps "${@:2}")
}
modules hack/cluster/kube ./cmd/...
modules hack/cluster/containerd tool
modules hack/cluster/dns ./cmd/...
modules . ./cmd/... ./hack/images
hack/cluster/packages.sh
hack/cluster/debian.sh
hack/cluster/rootfs.sh
