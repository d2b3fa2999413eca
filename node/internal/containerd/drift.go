package containerd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Drifted names the first file that is not byte for byte what Install with the
// same arguments has left; empty if there is none.
func (s Setup) Drifted(mirror string, mode Mode) (file string, err error) {
	wanted, err := s.files(mirror, mode)
	if err != nil {
		return "", err
	}
	for _, f := range wanted {
		current, _, err := read(s.hosts(f.name))
		if err != nil {
			return "", fmt.Errorf("reading containerd's set-up for %s: %w", f.registry, err)
		}
		if !bytes.Equal(current, f.content) {
			return s.hosts(f.name), nil
		}
	}
	return "", nil
}

// MountedFrom is the folder that is mounted as certs.d, as in a pod; empty if it is
// not a mount. The kernel says there (proc_pid_mountinfo(5)) what became of it: if
// it was renamed or removed, containerd reads another folder of the old name.
func (s Setup) MountedFrom() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	at := ""
	for line := range strings.Lines(string(data)) {
		// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT ...: the last one is on top.
		if part := strings.Fields(line); len(part) > 5 && part[4] == filepath.Clean(s.CertsD) {
			at = part[2] + " " + part[3]
		}
	}
	return at, nil
}
