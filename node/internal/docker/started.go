package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/systemd"
)

const (
	unitFile     = "docker.service"
	mirrorFlag   = "--registry-mirror"
	configFlag   = "--config-file"
	validateFlag = "--validate"
	validateTime = 20 * time.Second
)

// start is how a dockerd that reads s.File was started, or will be.
type start struct {
	by      string // what people know it by: "process 123", "unit /usr/lib/..."
	program string
	args    []string // without the program
}

// check refuses settings with which dockerd would not start: it looks at the
// processes that run, at the units that start the next one, and asks dockerd
// itself. content is what daemon.json is to hold.
func (s Setup) check(content []byte) error {
	starts, err := s.starts()
	if err != nil {
		return err
	}
	for _, st := range starts {
		for _, a := range st.args {
			if a == mirrorFlag || strings.HasPrefix(a, mirrorFlag+"=") {
				return fmt.Errorf("dockerd (%s) is started with %s, and does not start with that and %s in daemon.json: put that mirror into daemon.json as %[3]s, take the flag out of dockerd's unit or start script, and restart it", st.by, mirrorFlag, mirrorsKey)
			}
		}
	}
	for _, st := range starts {
		if err := s.validate(st, content); err != nil {
			return err
		}
	}
	return nil
}

// unit is how docker.service starts a dockerd that reads s.File, if it does.
func (s Setup) unit() ([]start, error) {
	u, err := systemd.Read(s.Units, unitFile)
	if err != nil || len(u.Exec) == 0 {
		return nil, err
	}
	// A rootless one is started by dockerd-rootless.sh, with the same arguments.
	if name := filepath.Base(u.Exec[0]); name != "dockerd" && name != "dockerd-rootless.sh" {
		return nil, nil
	}
	if !s.isRead("", configFile(u.Exec, s.Standard)) {
		return nil, nil
	}
	return []start{{"unit " + u.File, u.Exec[0], u.Exec[1:]}}, nil
}

// starts are those of all dockerds that read s.File.
func (s Setup) starts() ([]start, error) {
	running, err := s.processes()
	if err != nil {
		return nil, err
	}
	unit, err := s.unit()
	if err != nil {
		return nil, err
	}
	return append(running, unit...), nil
}

// processes are the dockerds of this user that run and read s.File. One in a
// container of this machine reads another file, perhaps of the same name; and a
// program that another user calls dockerd says nothing about root's, and must not
// be run.
func (s Setup) processes() (out []start, err error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		info, err := os.Stat(p)
		if err != nil {
			continue // it has ended
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		if filepath.Base(args[0]) != "dockerd" || !s.isRead(filepath.Join(p, "root"), configFile(args, settingsOf(p))) {
			continue
		}
		program, err := os.Readlink(filepath.Join(p, "exe"))
		if err != nil {
			program = args[0]
		}
		out = append(out, start{"process " + filepath.Base(p), program, args[1:]})
	}
	return out, nil
}

// settingsOf is the daemon.json that a process reads if no flag names one.
func settingsOf(process string) string {
	environ, err := os.ReadFile(filepath.Join(process, "environ"))
	if err != nil {
		return SystemFile
	}
	env := map[string]string{}
	for pair := range strings.SplitSeq(string(environ), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	if env["ROOTLESSKIT_STATE_DIR"] == "" {
		return SystemFile
	}
	return filepath.Join(userFolder(func(name string) string { return env[name] }), settingsFile)
}

// configFile is the daemon.json of a dockerd with these arguments.
func configFile(args []string, file string) string {
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, configFlag+"="); ok {
			file = v
		} else if a == configFlag && i+1 < len(args) {
			file = args[i+1]
		}
	}
	return file
}

// isRead tells whether a file below a root is s.File.
func (s Setup) isRead(root, file string) bool {
	if filepath.Base(file) != filepath.Base(s.File) {
		return false
	}
	theirs, err1 := os.Stat(filepath.Join(root, filepath.Dir(file)))
	ours, err2 := os.Stat(filepath.Dir(s.File))
	return err1 == nil && err2 == nil && os.SameFile(theirs, ours)
}

// validate asks dockerd itself, where it can be asked (23.0 and newer), whether it
// starts with the settings. What it says may hold what daemon.json keeps secret,
// and is not passed on.
func (s Setup) validate(st start, content []byte) error {
	program, err := exec.LookPath(st.program)
	if err != nil || filepath.Base(program) != "dockerd" {
		return nil // a script, or a program of another file system
	}
	if _, exists, err := read(s.File); err != nil {
		return err
	} else if exists && !valid(program, st.args, s.File) {
		return fmt.Errorf("dockerd (%s) does not start with this file as it is: correct what '%s %s %s=%s' names first", st.by, program, validateFlag, configFlag, s.File)
	}
	f, err := os.CreateTemp(filepath.Dir(s.File), ".new-*") // for this user alone; swept
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	ok := err == nil && valid(program, st.args, f.Name())
	if err := errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("dockerd (%s) would not start with %s in this file beside its own arguments, by '%s %s': nothing was changed", st.by, mirrorsKey, program, validateFlag)
	}
	return nil
}

// aboutTheFile is what dockerd says of a file that it does not take. It may refuse
// for other reasons here that do not hold where it is started: another PATH.
var aboutTheFile = regexp.MustCompile(`following directives|invalid JSON|invalid character|failed to decode|invalid mirror`)

// valid tells whether dockerd takes a file; one that cannot tell takes it.
func valid(program string, args []string, file string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), validateTime)
	defer cancel()
	// The last of a flag counts.
	out, err := exec.CommandContext(ctx, program, append(append([]string{}, args...), validateFlag, configFlag+"="+file)...).CombinedOutput()
	_, failed := errors.AsType[*exec.ExitError](err)
	return !failed || !aboutTheFile.Match(out)
}
