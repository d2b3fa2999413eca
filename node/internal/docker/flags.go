package docker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	mirrorFlag  = "--registry-mirror"
	configFlag  = "--config-file"
	defaultFile = "/etc/docker/daemon.json"
)

// checkFlags refuses a daemon.json whose dockerd was started with mirrors of
// its own: dockerd does not start with both.
func (s Setup) checkFlags() error {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range processes {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		if filepath.Base(args[0]) != "dockerd" || !s.isReadBy(p, args) {
			continue
		}
		for _, a := range args {
			if a == mirrorFlag || strings.HasPrefix(a, mirrorFlag+"=") {
				return fmt.Errorf("dockerd (process %s) was started with %s, and does not start with that and %s in daemon.json: put that mirror into daemon.json as %[3]s, take the flag out of dockerd's unit or start script, and restart it", filepath.Base(p), mirrorFlag, mirrorsKey)
			}
		}
	}
	return nil
}

// isReadBy tells whether a dockerd with these arguments reads s.File. One in a
// container of this machine reads another file of perhaps the same name.
func (s Setup) isReadBy(process string, args []string) bool {
	file := defaultFile
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, configFlag+"="); ok {
			file = v
		} else if a == configFlag && i+1 < len(args) {
			file = args[i+1]
		}
	}
	if filepath.Base(file) != filepath.Base(s.File) {
		return false
	}
	theirs, err1 := os.Stat(filepath.Join(process, "root", filepath.Dir(file)))
	ours, err2 := os.Stat(filepath.Dir(s.File))
	return err1 == nil && err2 == nil && os.SameFile(theirs, ours)
}
