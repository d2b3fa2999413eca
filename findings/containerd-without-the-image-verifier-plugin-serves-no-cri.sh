#!/usr/bin/env bash
# containerd: 2.1 and 2.2 serve no CRI at all when the image verifier plugin, which nobody has set up, is disabled.
#
# The good guess: "io.containerd.image-verifier.v1.bindir" is an option. Without verifiers in its bin_dir it does nothing, so who lists
# it in disabled_plugins changes nothing, in any version.
#
# What really happens: until 2.2 the transfer service asks for all image verifiers, and takes "there is none" for an error: it does not
# load. In 2.0 the CRI pulls by itself and does not miss it; in 2.1 and 2.2 the CRI's image service wants the transfer service, so
# neither it nor the CRI load. containerd itself starts, its socket is there and `ctr` works: the kubelet alone has nothing to talk to.
# In 2.4 the error counts no more, and the same line is harmless again.
#
# Shown by the state of the CRI plugin in `ctr plugins ls`, under a configuration of that one line; the control is no such line.
#
# Versions: containerd 2.0.14, 2.1.9, 2.2.9 and 2.4.2 built from their modules, Go 1.26. Date: 2026-11-28. Needs root; the builds take
# some minutes each.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run this as root: containerd does not start otherwise" >&2; exit 1; }

dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-buildvcs=false -mod=mod"

build() { # version: its daemon and ctr
	mkdir "$dir/$1"
	cd "$dir/$1"
	go mod init finding >/dev/null 2>&1
	go get -tool "github.com/containerd/containerd/v2/cmd/containerd@v$1" "github.com/containerd/containerd/v2/cmd/ctr@v$1" >/dev/null 2>&1
	go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=v$1" -o . tool
}

state() { # version, configuration: what the plugin list says of the CRI
	local run="$dir/$1/run" waited=0 line
	rm -rf "$run"
	mkdir "$run"
	printf 'version = 3\nroot = "%s/root"\nstate = "%s/state"\n[grpc]\naddress = "%s/sock"\n' "$run" "$run" "$run" >"$run/rest.toml"
	{ echo "$2"; cat "$run/rest.toml"; } >"$run/config.toml"
	"$dir/$1/containerd" --config "$run/config.toml" >"$run/log" 2>&1 &
	pid=$!
	until "$dir/$1/ctr" -a "$run/sock" version >/dev/null 2>&1; do
		if ! kill -0 "$pid" || ((waited++ == 60)); then
			tail -3 "$run/log" >&2
			exit 1
		fi
		sleep 0.5
	done
	line=$("$dir/$1/ctr" -a "$run/sock" plugins ls | awk '$1 == "io.containerd.grpc.v1" && $2 == "cri" {print $NF}')
	kill -9 "$pid"
	wait "$pid" 2>/dev/null || true
	pid=
	echo "${line:-absent}"
}

off='disabled_plugins = ["io.containerd.image-verifier.v1.bindir"]'
failed=0
for v in 2.0.14 2.1.9 2.2.9 2.4.2; do
	build "$v"
	with=$(state "$v" "") without=$(state "$v" "$off")
	echo "containerd $("$dir/$v/containerd" --version 2>/dev/null | awk '{print $3}'): CRI $with; with the image verifier disabled: CRI $without"
	case $v in 2.1.9 | 2.2.9) wanted=error ;; *) wanted=ok ;; esac
	[ "$with" = ok ] && [ "$without" = "$wanted" ] || failed=1
done
[ $failed = 0 ] || { echo "FAIL: this has changed"; exit 1; }

# Seen:
# containerd v2.0.14: CRI ok; with the image verifier disabled: CRI ok
# containerd v2.1.9: CRI ok; with the image verifier disabled: CRI error
# containerd v2.2.9: CRI ok; with the image verifier disabled: CRI error
# containerd v2.4.2: CRI ok; with the image verifier disabled: CRI ok
