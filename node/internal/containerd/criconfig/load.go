package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFiles bounds the files of a configuration, and so how deep imports lead.
const maxFiles = 64

// source is one file of a configuration, as it is on the disk.
type source struct {
	name     string
	Version  int
	Imports  []string
	Disabled []string `toml:"disabled_plugins"`
	Required []string `toml:"required_plugins"`
	Plugins  map[string]any
}

// configuration is a file and all that it imports, in containerd's order.
type configuration struct {
	file  string // the first one, which may not be there
	files []source
}

// version is the newest of all files.
func (c *configuration) version() (v int) {
	for _, f := range c.files {
		v = max(v, f.Version)
	}
	return v
}

// main is the first file; the zero source if it is not there.
func (c *configuration) main() source {
	if len(c.files) == 0 {
		return source{name: c.file}
	}
	return c.files[0]
}

// missingError says that a file which another one imports is not there: with
// that, no version of containerd starts.
type missingError struct {
	file, by string
}

func (e *missingError) Error() string {
	return fmt.Sprintf("%s imports %s, which is not there", e.by, e.file)
}

// load reads a configuration as containerd does (LoadConfig, the same in all
// versions): breadth first, each file once, imports relative to the file that
// has them, patterns by filepath.Glob if they have a star. A file that is not
// there has nothing in it.
func (m Machine) load(file string, r release) (*configuration, error) {
	c := &configuration{file: file}
	by := map[string]string{file: ""}
	for pending := []string{file}; len(pending) > 0; pending = pending[1:] {
		name := pending[0]
		data, err := m.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			if name == file {
				return c, nil
			}
			return nil, &missingError{name, by[name]}
		}
		if err != nil {
			return nil, err
		}
		f := source{name: name}
		if err := toml.Unmarshal(data, &f); err != nil {
			return nil, &UnreadableError{name, undecodable(err)}
		}
		c.files = append(c.files, f)
		imports, err := m.imports(f, r)
		if err != nil {
			return nil, err
		}
		for _, imported := range imports {
			if _, ok := by[imported]; ok {
				continue
			}
			if by[imported] = name; len(by) > maxFiles {
				return nil, &UnreadableError{file, fmt.Sprintf("it imports more than %d files", maxFiles)}
			}
			pending = append(pending, imported)
		}
	}
	return c, nil
}

// undecodable says where a file is wrong, and not what stands there.
func undecodable(err error) string {
	if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := wrong.Position()
		return fmt.Sprintf("it is no TOML of the right form, line %d column %d", row, column)
	}
	return "it is no TOML of the right form"
}

func (m Machine) imports(f source, r release) (out []string, err error) {
	for _, pattern := range f.Imports {
		pattern = filepath.Clean(pattern)
		star := strings.Contains(pattern, "*")
		switch {
		case filepath.IsAbs(pattern):
		case star && r.patch < r.relative:
			pattern = filepath.Join("/", pattern) // where a service is started
		default:
			pattern = filepath.Join(filepath.Dir(f.name), pattern)
		}
		found := []string{pattern}
		if star {
			if found, err = m.glob(pattern); err != nil {
				if unreadable, ok := errors.AsType[*UnreadableError](err); ok {
					return nil, unreadable
				}
				return nil, &UnreadableError{pattern, "it is no pattern"}
			}
		}
		out = append(out, found...)
	}
	return out, nil
}
