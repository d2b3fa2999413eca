// Package systemd reads unit files as systemd does, as far as needed here: what a
// unit starts, and in which environment. It imports only node/internal/durable; the
// set-ups of Docker and of containers/image call it.
package systemd

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// SystemUnits and UserUnits are where systemd looks for units, the first one
// first (systemd.unit(5)).
var SystemUnits = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// UserUnits are those of the user whose folder of settings is config.
func UserUnits(config string) []string {
	return []string{filepath.Join(config, "systemd/user"), "/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"}
}

// Unit is what counts here of a unit, with its drop-ins.
type Unit struct {
	File string            // empty if there is none
	Exec []string          // ExecStart, with its variables
	Env  map[string]string // Environment and EnvironmentFile
	line string            // ExecStart as it stands there
}

// Read reads a unit as systemd does: the first folder's file, and then the
// drop-ins of all folders by their names.
func Read(folders []string, name string) (Unit, error) {
	u := Unit{Env: map[string]string{}}
	for _, folder := range folders {
		content, exists, err := readRegular(filepath.Join(folder, name))
		if err != nil {
			return u, err
		}
		if exists {
			u.File = filepath.Join(folder, name)
			if err := u.add(content); err != nil {
				return u, err
			}
			break
		}
	}
	if u.File == "" {
		return u, nil
	}
	dropIns := map[string]string{} // the first folder's wins
	for _, folder := range slices.Backward(folders) {
		files, err := filepath.Glob(filepath.Join(folder, name+".d", "*.conf"))
		if err != nil {
			return u, err
		}
		for _, f := range files {
			dropIns[filepath.Base(f)] = f
		}
	}
	for _, base := range slices.Sorted(maps.Keys(dropIns)) {
		content, _, err := readRegular(dropIns[base])
		if err == nil {
			err = u.add(content)
		}
		if err != nil {
			return u, err
		}
	}
	u.Exec = words(u.line, u.Env)
	return u, nil
}

// readRegular reads a unit; a masked one, a link to /dev/null, is empty.
func readRegular(file string) (content string, exists bool, err error) {
	data, exists, err := durable.ReadIfThere(file)
	if _, special := errors.AsType[*durable.NotAFileError](err); special {
		return "", true, nil
	}
	return string(data), exists, err
}

// add reads one file of a unit.
func (u *Unit) add(content string) error {
	section := ""
	for line := range strings.SplitSeq(strings.ReplaceAll(content, "\\\n", " "), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if section != "[Service]" || !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "ExecStart":
			u.line = strings.TrimLeft(value, "@-:+!") // an empty one resets it
		case "Environment":
			for _, pair := range words(value, nil) {
				name, v, _ := strings.Cut(pair, "=")
				u.Env[name] = v
			}
		case "EnvironmentFile":
			if err := u.readEnv(strings.TrimPrefix(value, "-")); err != nil {
				return err
			}
		}
	}
	return nil
}

// readEnv reads the variables of an EnvironmentFile, such as /etc/default/docker.
func (u *Unit) readEnv(pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil // systemd finds none either
	}
	for _, file := range files {
		env, err := ReadEnv(file)
		if err != nil {
			return err
		}
		maps.Copy(u.Env, env)
	}
	return nil
}

// ReadEnv reads a file of variables, which need not be there. /etc/environment has
// the same form.
func ReadEnv(file string) (map[string]string, error) {
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.SplitSeq(strings.ReplaceAll(string(content), "\\\n", " "), "\n") {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
			env[name] = strings.Join(words(value, nil), " ")
		}
	}
	return env, nil
}

// words splits a command line as systemd does (systemd.service(5)): $NAME alone
// becomes the words of its value, and ${NAME} is put into its word.
func words(line string, env map[string]string) (out []string) {
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	end := func() {
		if !started {
			return
		}
		w := word.String()
		name, isVariable := strings.CutPrefix(w, "$")
		switch {
		case env != nil && isVariable && !strings.HasPrefix(name, "{"):
			out = append(out, strings.Fields(env[name])...)
		case env != nil:
			out = append(out, os.Expand(w, func(name string) string { return env[name] }))
		default:
			out = append(out, w)
		}
		word.Reset()
		started = false
	}
	for _, r := range line {
		switch {
		case escaped:
			escaped = false
			word.WriteRune(r)
		case r == '\\':
			escaped, started = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, started = r, true
		case r == ' ' || r == '\t':
			end()
		default:
			started = true
			word.WriteRune(r)
		}
	}
	end()
	return out
}
