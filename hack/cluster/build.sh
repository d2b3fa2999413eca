#!/bin/bash
# build.sh PART...: builds the cluster's programs from their Go modules, unless they are there
# already, and prints one folder per part. A part is a module beside this script:
#
#   kube        the commands of Kubernetes, kubectl and etcd (bin/ serves as KUBEBUILDER_ASSETS)
#   containerd  containerd, its shim, ctr
#   docker      dockerd
#   image       imagecopy: the library of podman, skopeo, buildah and CRI-O
#   dns         CoreDNS and pause, as container images in images/
#   s3          Versity's S3 gateway: an object store in a folder
#   buildkit    buildkitd and its client
#   stargz      stargz-snapshotter, and what makes layers for it
#
# NAME@VERSION is another release of a part, whose module is NAME-versions/VERSION: containerd@1.7.35. That of
# kube@1.30.14 is made of what this release of Kubernetes says of itself; its etcd is the one that it was tested with.
#
# The folder's name contains a hash of everything that it is built from, so an old build is never
# taken for a new one, and several checkouts share one cache.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
. "$HERE/settings.sh"
unset GOOS GOARCH # for this machine
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -mod=readonly" GOWORK=off
# A compiler lives for seconds: it spends a tenth less on them if it collects garbage late.
export GOGC=${GOGC:-400} GOMEMLIMIT=${GOMEMLIMIT:-1536MiB}

# These programs are not debugged: without debug information the compiler has a sixth less to do. As hack/images and
# the Makefile's GO_RUN compile, so that what all of them import is compiled once.
go_build() { # out packages...
	go build -trimpath -gcflags all=-dwarf=false -ldflags "-s -w ${LDFLAGS:-}" -o "$1/" "${@:2}"
}

# Each build_PART runs in the folder of its module and fills the folder $1.

build_kube() {
	local v major minor p c
	v=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	IFS=. read -r major minor _ <<<"${v#v}"
	local LDFLAGS=
	for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		LDFLAGS+=" -X $p.gitVersion=$v -X $p.gitMajor=$major -X $p.gitMinor=$minor"
		LDFLAGS+=" -X $p.gitTreeState=archive -X $p.buildDate=1970-01-01T00:00:00Z"
	done
	go_build "$1/bin" ./cmd/kube ./cmd/etcd
	for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
		ln -s kube "$1/bin/$c"
	done
}

# A release's own go.mod names the versions of all that it is made of. What it has in staging/ are modules of
# the version 0.MINOR.PATCH; the samples among them are not all to be had, and no program needs them.
build_kube_release() { # out release
	local module=$1/module minor kubernetes
	IFS=. read -r _ minor _ <<<"$2"
	kubernetes=$(go mod download -json "k8s.io/kubernetes@v$2" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
	mkdir -p "$module/none"
	echo "module none" >"$module/none/go.mod"
	cp -r cmd "$module"
	cd "$module"
	sed -E "s|^module .*|module cluster.local/kube|
		s|=> ./staging/src/k8s.io/sample-.*|=> ./none|
		s|=> ./staging/src/(.*)|=> \1 v0.${2#*.}|" "$kubernetes" >go.mod
	export GOFLAGS=${GOFLAGS/readonly/mod}
	go mod edit -require="k8s.io/kubernetes@v$2"
	# Before 1.34 the kubelet's command took no context.
	((minor >= 34)) ||
		sed -i -e '/^\t"context"$/d' -e 's/NewKubeletCommand(context.Background())/NewKubeletCommand()/' cmd/kube/main.go
	build_kube "$1"
}

build_containerd() {
	local v
	v=$(go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
	local LDFLAGS="-X github.com/containerd/containerd/v2/version.Version=$v"
	go_build "$1/bin" tool
}

build_containerd_release() {
	local path v
	path=$(go list -f '{{.Module.Path}}' tool)
	v=$(go list -m -f '{{.Version}}' "$path")
	local LDFLAGS="-X $path/version.Version=$v"
	go_build "$1/bin" tool
}

build_docker() {
	local v
	v=$(go list -m -f '{{.Version}}' github.com/moby/moby/v2)
	local LDFLAGS="-X github.com/moby/moby/v2/dockerversion.Version=29.0.0+$v"
	go_build "$1/bin" tool
}

build_image() {
	GOFLAGS="$GOFLAGS -tags=containers_image_openpgp" go_build "$1/bin" ./cmd/...
}

build_s3() {
	go_build "$1/bin" tool
}

build_buildkit() {
	go_build "$1/bin" tool
}

build_stargz() {
	go_build "$1/bin" ./cmd/...
}

build_dns() {
	local image
	go_build "$1/bin" ./cmd/...
	mkdir "$1/images"
	for image in coredns pause; do
		"$1/bin/mkimage" "$1/bin/$image" "cluster.local/$image:1" "$1/images/$image.tar"
	done
}

key() { # recipe...: runs in the folder of the part's module
	{
		go env GOVERSION GOARCH
		declare -f go_build "$@"
		find . -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) -print0 | sort -z | xargs -0 sha256sum
	} | sha256sum | cut -c1-16
}

# A line every now and then: the first build takes minutes, and `go build` says nothing.
wait_for_build() { # part pid
	local start=$SECONDS next=15
	while kill -0 "$2" 2>/dev/null; do
		sleep 0.2
		if ((SECONDS - start >= next)); then
			say "still building $1 ($next s)"
			next=$((next + 15))
		fi
	done
	wait "$2"
}

build() { # part
	local dir new log module=${1/@/-versions/} recipes=()
	[[ $1 != kube@* ]] || module=kube recipes=(build_kube)
	recipes+=("build_${1/@*/_release}")
	[ -e "$HERE/$module/go.mod" ] || fail "build.sh: there is no part \"$1\""
	cd "$HERE/$module"
	dir=$CACHE/$1-$(key "${recipes[@]}")
	if [ ! -d "$dir" ]; then
		mkdir -p "$CACHE"
		exec 8>"$CACHE/$1.lock"
		flock -n 8 || { say "waiting for another build of $1"; flock 8; }
	fi
	if [ ! -d "$dir" ]; then
		new=$dir.new log=$CACHE/$1.build.log
		rm -rf "$new"
		mkdir -p "$new/bin"
		say "building $1, which takes minutes the first time"
		# A process group of its own, so that an interruption ends the compiler too.
		set -m
		("${recipes[-1]}" "$new" "${1#*@}") >"$log" 2>&1 &
		set +m
		job=$!
		trap 'kill -- "-$job" 2>/dev/null || true' EXIT
		wait_for_build "$1" "$job" || {
			tail -n 20 "$log" >&2
			fail "building $1 failed: see $log"
		}
		# Other checkouts may run an older build at this moment: it is left where it is.
		mv "$new" "$dir"
		say "built $1"
	fi
	exec 8>&-
	echo "$dir"
}

for part; do build "$part"; done
