package registries

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/systemd"
)

// The variables that tell clients which files to read (containers/image 5.42.1,
// pkg/sysregistriesv2 and pkg/cli/environment).
const (
	// mainVariable names what is read in place of registries.conf. Since 5.42 no
	// drop-in is read beside it.
	mainVariable = "CONTAINERS_REGISTRIES_CONF"
	// lastVariable names what is read after all else, since 5.42.
	lastVariable = mainVariable + "_OVERRIDE"
	// oldVariable is mainVariable's old name, known to podman and buildah alone. The
	// drop-ins are read beside it.
	oldVariable = "REGISTRIES_CONFIG_PATH"
)

const loginFile = "/etc/environment"

// clientUnits are those by which systemd starts clients that run for long.
var clientUnits = []string{"crio.service", "podman.service"}

// environment is what is said somewhere of the files that clients read.
type environment struct {
	where string
	files map[string]string // by the variable
}

// main is what is read in place of registries.conf before 5.42.
func (e environment) main() string { return cmp.Or(e.files[mainVariable], e.files[oldVariable]) }

// EnvironmentError says that clients do not read the drop-in, for a variable names
// another file.
type EnvironmentError struct{ File, Where, DropIn string }

func (e *EnvironmentError) Error() string {
	return fmt.Sprintf("%s=%s, set in %s, has clients since podman 6 (containers/image 5.42 and newer) read that file and no drop-in, and pull around the node: take the variable out there, or have it name %s", mainVariable, e.File, e.Where, e.DropIn)
}

// environments are all that can be read here and say anything of files: that of this
// process and of other logins, of the units that start clients, and what
// containers.conf(5) adds to podman's and buildah's own.
func (s Setup) environments() (out []environment, err error) {
	add := func(where string, get func(string) string) {
		e := environment{where, map[string]string{}}
		for _, name := range []string{mainVariable, lastVariable, oldVariable} {
			if file := get(name); file != "" {
				e.files[name] = file
			}
		}
		if len(e.files) > 0 {
			out = append(out, e)
		}
	}
	of := func(env map[string]string) func(string) string { return func(name string) string { return env[name] } }
	if s.Getenv != nil {
		add("the environment here", s.Getenv)
	}
	if s.Login != "" {
		env, err := systemd.ReadEnv(s.Login)
		if err != nil {
			return nil, err
		}
		add(s.Login, of(env))
	}
	for _, name := range clientUnits {
		u, err := systemd.Read(s.Units, name)
		if err != nil {
			return nil, err
		}
		add("the unit "+name, of(u.Env))
	}
	files, err := s.engineFiles()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		env, err := engineEnv(file)
		if err != nil {
			return nil, err
		}
		add(file, of(env))
	}
	return out, nil
}

// engineFiles are where containers.conf(5) may be.
func (s Setup) engineFiles() (out []string, err error) {
	folders := []string{s.Vendor, s.System, s.User, s.XDG}
	slices.Sort(folders)
	for _, folder := range slices.Compact(folders) {
		dropIns, err := filepath.Glob(filepath.Join(folder, "containers.conf.d", "*.conf"))
		if err != nil {
			return nil, err
		}
		out = append(append(out, filepath.Join(folder, "containers.conf")), dropIns...)
	}
	return out, nil
}

// engineEnv are the variables that a containers.conf sets. A file that is not TOML
// keeps podman from starting; podman reports that itself.
func engineEnv(file string) (map[string]string, error) {
	data, _, err := durable.ReadIfThere(file)
	if err != nil {
		return nil, err
	}
	var conf struct {
		Engine struct {
			Env []any `toml:"env"` // strings, and {append = true}
		} `toml:"engine"`
	}
	env := map[string]string{}
	if toml.Unmarshal(data, &conf) != nil {
		return env, nil
	}
	for _, e := range conf.Engine.Env {
		if pair, ok := e.(string); ok {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
	}
	return env, nil
}

// exists tells whether a file is there.
func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
