#!/usr/bin/env bash
# containerd: before 1.6.29 and 1.7.16 a pattern in `imports` was looked for in the daemon's working directory, not beside config.toml.
#
# The good guess: `imports = ["conf.d/*.toml"]` in /etc/containerd/config.toml means /etc/containerd/conf.d/*.toml in all versions, as
# `imports = ["conf.d/a.toml"]` means /etc/containerd/conf.d/a.toml.
#
# What really happens: a name without a star is joined to the folder of the file that has it, in all versions. A pattern with one was
# expanded first, as it stands, in the directory in which the daemon was started: / under systemd, so /conf.d/*.toml. Nothing matches,
# and that is no error: the drop-in is not read, and containerd starts without a word. Whoever starts the daemon by hand, in
# /etc/containerd, sees it work. 1.6.29 and 1.7.16 join the folder first.
#
# Shown by `containerd config dump`, from / and from the folder of the configuration, with Debian 12's containerd and two newer ones.
#
# Versions: containerd 1.6.20 (Debian 12's package), 1.6.36 and 1.7.35 (built from their modules), Go 1.26. Date: 2026-11-28. Needs apt.
set -euo pipefail

dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-buildvcs=false -mod=mod"

cd "$dir"
apt-get download -qq containerd >/dev/null 2>&1
dpkg -x containerd_*.deb debian
mv debian/usr/bin/containerd containerd-1.6.20
for v in 1.6.36 1.7.35; do
	mkdir "$v"
	cd "$v"
	go mod init finding >/dev/null 2>&1
	go get -tool "github.com/containerd/containerd/cmd/containerd@v$v" >/dev/null 2>&1
	go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/version.Version=v$v" -o ../containerd-$v github.com/containerd/containerd/cmd/containerd
	cd ..
done

mkdir -p etc/conf.d
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/from/the/drop-in"\n' >etc/conf.d/a.toml
seen() { # version, import, working directory: whether the drop-in counts
	printf 'version = 2\nimports = ["%s"]\n' "$2" >etc/config.toml
	local dump
	dump=$(cd "$3" && "$dir/containerd-$1" --config "$dir/etc/config.toml" config dump)
	if grep -q '"/from/the/drop-in"' <<<"$dump"; then echo read; else echo ignored; fi
}
failed=0
for v in 1.6.20 1.6.36 1.7.35; do
	name=$(seen $v conf.d/a.toml /) root=$(seen $v 'conf.d/*.toml' /) beside=$(seen $v 'conf.d/*.toml' "$dir/etc")
	echo "$(./containerd-$v --version | awk '{print $1, $3}'): a name is $name; a pattern is $root when started in /, $beside when started beside config.toml"
	wanted='read'
	[ $v != 1.6.20 ] || wanted=ignored
	[ "$name $root $beside" = "read $wanted read" ] || failed=1
done
[ $failed = 0 ] || { echo "FAIL: this has changed"; exit 1; }

# Seen:
# containerd 1.6.20~ds1: a name is read; a pattern is ignored when started in /, read when started beside config.toml
# containerd v1.6.36: a name is read; a pattern is read when started in /, read when started beside config.toml
# containerd v1.7.35: a name is read; a pattern is read when started in /, read when started beside config.toml
