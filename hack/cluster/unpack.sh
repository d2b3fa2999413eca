# shellcheck shell=bash
# To be sourced, after settings.sh: programs of Debian that are not installed, because their
# packages start services.

# unpack NAME KEY PACKAGE... sets dir to a folder in the cache. If it is new, the packages are
# unpacked to root/ in it, and then the script's function fill runs there, with the folder that it
# will be.
unpack() {
	local name=$1 key=$2 new log deb
	shift 2
	[ "$(uname -s) $(id -u)" = "Linux 0" ] || fail "$name: this needs Linux and root"
	command -v apt-get >/dev/null || fail "$name: this machine has no apt-get"
	dir=$CACHE/$name-$(dpkg --print-architecture)-$key
	mkdir -p "$CACHE"
	exec 8>"$CACHE/$name.lock"
	flock 8
	[ ! -d "$dir" ] || return 0
	new=$dir.new log=$CACHE/$name.log
	rm -rf "$new"
	mkdir -p "$new/bin"
	cd "$new" || exit
	say "downloading from Debian: $*"
	apt-get download -qq "$@" >"$log" 2>&1 || {
		say "refreshing Debian's package lists, for that failed with the present ones"
		apt-get update -qq >"$log" 2>&1 || fail "apt-get update failed: see $log"
		apt-get download -qq "$@" >"$log" 2>&1 || fail "the download failed: see $log"
	}
	for deb in *.deb; do dpkg-deb -x "$deb" root; done
	rm -f ./*.deb
	fill "$dir"
	mv "$new" "$dir"
}

# needed PROGRAM FILE: the file is the program.
needed() {
	if [ ! -f "$2" ] || [ ! -x "$2" ]; then fail "$1 is not in its Debian package: see $PWD"; fi
}
