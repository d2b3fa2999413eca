package docker

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

const unitFile = "docker.service"

// systemUnits and userUnits are where systemd looks for units, the first one
// first (systemd.unit(5)).
var systemUnits = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

func userUnits(config string) []string {
	return []string{filepath.Join(config, "systemd/user"), "/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"}
}

// unit is how docker.service starts a dockerd that reads s.File, if it does.
func (s Setup) unit() ([]start, error) {
	u, err := readUnit(s.Units, unitFile)
	if err != nil || len(u.exec) == 0 {
		return nil, err
	}
	// A rootless one is started by dockerd-rootless.sh, with the same arguments.
	if name := filepath.Base(u.exec[0]); name != "dockerd" && name != "dockerd-rootless.sh" {
		return nil, nil
	}
	if !s.isRead("", configFile(u.exec, s.Standard)) {
		return nil, nil
	}
	return []start{{"unit " + u.file, u.exec[0], u.exec[1:]}}, nil
}

// unit is what counts here of a unit of systemd, with its drop-ins.
type unit struct {
	file string
	exec []string // ExecStart, with its variables
	env  map[string]string
	line string // ExecStart as it stands there
}

// readUnit reads a unit as systemd does: the first folder's file, and then the
// drop-ins of all folders by their names.
func readUnit(folders []string, name string) (unit, error) {
	u := unit{env: map[string]string{}}
	for _, folder := range folders {
		content, exists, err := readRegular(filepath.Join(folder, name))
		if err != nil {
			return u, err
		}
		if exists {
			u.file = filepath.Join(folder, name)
			if err := u.add(content); err != nil {
				return u, err
			}
			break
		}
	}
	if u.file == "" {
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
	u.exec = words(u.line, u.env)
	return u, nil
}

// readRegular reads a unit; one that is masked, by a link to /dev/null, says nothing.
func readRegular(file string) (content string, exists bool, err error) {
	data, exists, err := durable.ReadIfThere(file)
	if _, special := errors.AsType[*durable.NotAFileError](err); special {
		return "", true, nil
	}
	return string(data), exists, err
}

// add reads one file of a unit.
func (u *unit) add(content string) error {
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
				u.env[name] = v
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
func (u *unit) readEnv(pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil // systemd finds none either
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(string(content), "\\\n", " "), "\n") {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
				u.env[name] = strings.Join(words(value, nil), " ")
			}
		}
	}
	return nil
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
