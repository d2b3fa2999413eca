package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// maxFiles bounds the files that a configuration imports.
const maxFiles = 64

// The tables of containerd's configuration that hold registry.config_path. A
// configuration of version 1 has the shortest name; 2.x knows all of them.
const (
	tableV1   = "cri"                         // 1.x
	tableV2   = "io.containerd.grpc.v1.cri"   // 1.6, 1.7
	tableV2_0 = "io.containerd.cri.v1.images" // 2.x
)

// ConfigError says why containerd does not read a certs.d, and what to do.
type ConfigError struct {
	File, CertsD string
	Found        string // what it reads
	table        string // in which the setting belongs
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf(`containerd does not read %s: %s. Have one setting in %s, with no import that overrides it, and restart containerd:

[plugins.%q.registry]
  config_path = %q
`, e.CertsD, e.Found, e.File, e.table, e.CertsD)
}

// config is what matters here of a file of containerd's configuration.
type config struct {
	Version int
	Imports []string
	Plugins map[string]struct {
		Registry struct {
			ConfigPath string `toml:"config_path"`
		}
	}
}

// CheckConfig tells whether the CRI plugin of a containerd with this
// configuration (config.toml) reads s.CertsD: else nothing that Install writes
// counts. The error is a *ConfigError if it does not.
func (s Setup) CheckConfig(file string) error {
	seen, err := readConfig(file)
	if err != nil {
		return fmt.Errorf("reading containerd's configuration: %w", err)
	}
	problem := &ConfigError{File: file, CertsD: s.CertsD, table: tableV2}
	if seen.version >= 3 {
		problem.table = tableV2_0
	}
	switch {
	case seen.files == 0:
		problem.Found = "there is no " + file
	case seen.merged == "":
		problem.Found = "no config_path is set"
	case filepath.Clean(seen.merged) != filepath.Clean(s.CertsD):
		problem.Found = fmt.Sprintf("its config_path is %q", seen.merged)
	case seen.old && seen.version < 3 && filepath.Clean(seen.replaced) != filepath.Clean(s.CertsD):
		problem.Found = fmt.Sprintf("its config_path is %q for containerd 1.x, where an imported table takes the place of the whole one before", seen.replaced)
		if seen.replaced == "" {
			problem.Found = "an imported table takes the place of the one with config_path, in containerd 1.x"
		}
	default:
		return nil
	}
	return problem
}

// paths are the values of config_path in a configuration.
type paths struct {
	version, files int
	merged         string // as containerd 2.x does it, setting by setting
	replaced       string // as 1.x does it, a whole table at a time
	old            bool   // it has a table that 1.x knows
}

// readConfig reads a configuration and what it imports, in containerd's order.
// Of a file that is not there, nothing is set.
func readConfig(file string) (out paths, err error) {
	loaded := map[string]bool{}
	for pending := []string{file}; len(pending) > 0; pending = pending[1:] {
		name := pending[0]
		if loaded[name] {
			continue
		}
		if loaded[name] = true; len(loaded) > maxFiles {
			return out, fmt.Errorf("%s imports more than %d files", file, maxFiles)
		}
		data, err := durable.Read(name)
		if errors.Is(err, fs.ErrNotExist) && name == file {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		var c config
		if err := toml.Unmarshal(data, &c); err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
		out.files++
		out.version = max(out.version, c.Version)
		for _, table := range []string{tableV1, tableV2, tableV2_0} {
			section, ok := c.Plugins[table]
			if !ok {
				continue
			}
			if path := section.Registry.ConfigPath; path != "" {
				out.merged = path
			}
			if table != tableV2_0 {
				out.replaced, out.old = section.Registry.ConfigPath, true
			}
		}
		for _, pattern := range c.Imports {
			imports, err := expand(name, pattern)
			if err != nil {
				return out, fmt.Errorf("%s: imports %q: %w", name, pattern, err)
			}
			pending = append(pending, imports...)
		}
	}
	return out, nil
}

// expand finds the files of an import.
func expand(parent, pattern string) ([]string, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(parent), pattern)
	}
	if !strings.Contains(pattern, "*") {
		return []string{filepath.Clean(pattern)}, nil
	}
	return filepath.Glob(pattern)
}
