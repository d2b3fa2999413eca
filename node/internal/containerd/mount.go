package containerd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// checkPlace refuses a folder in which a hosts.toml can neither be put aside nor
// be replaced atomically: something is mounted there, or a link leads to another
// file system. Writing into the file instead would leave half of it after a
// crash, and containerd ignores such a file.
func (s Setup) checkPlace(folder string) error {
	for _, name := range []string{s.hosts(folder), s.dir(folder)} {
		mounted, err := isMount(name)
		if err != nil {
			return err
		}
		if mounted {
			return refused("%s is mounted from elsewhere, and was left as it is: mount all of %s instead, or unmount it, and try again", name, s.CertsD)
		}
	}
	var all, one unix.Stat_t
	if unix.Stat(s.CertsD, &all) == nil && unix.Stat(s.dir(folder), &one) == nil && all.Dev != one.Dev {
		return refused("%s leads to another file system, and was left as it is: have it in %s itself, and try again", s.dir(folder), s.CertsD)
	}
	return nil
}

// isMount tells whether something is mounted at a name.
func isMount(name string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, err
}
