package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// maxLinks bounds the links of one name, as the kernel does.
const maxLinks = 40

// Machine is where containerd's files are. The zero Machine is this one.
type Machine struct {
	// Root is the folder below which another machine's folders are mounted.
	Root string
	// Dirs are those of its folders that are mounted there. What lies elsewhere,
	// or behind a link that leads elsewhere, cannot be read from here.
	Dirs []string
}

// UnreadableError says that a file cannot be read, or not be decoded, from here.
// It tells nothing of the file's content: passwords may be in it.
type UnreadableError struct {
	Name, Why string
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("%s is not readable here: %s", e.Name, e.Why)
}

// resolve follows the links of a name as the machine itself would, and tells
// where that is here. Nothing need be there.
func (m Machine) resolve(name string) (string, error) {
	if m.Root == "" {
		return name, nil
	}
	at, links := "/", 0
	for rest := parts(name); len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		to, err := os.Readlink(filepath.Join(m.Root, next))
		if err != nil { // no link, or nothing at all
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &UnreadableError{name, "its links have no end"}
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(parts(to), rest...)
	}
	if !slices.ContainsFunc(m.Dirs, func(dir string) bool {
		rel, err := filepath.Rel(dir, at)
		return err == nil && filepath.IsLocal(rel)
	}) {
		return "", &UnreadableError{name, "it lies at " + at + ", outside of " + strings.Join(m.Dirs, " and ")}
	}
	return filepath.Join(m.Root, at), nil
}

// parts are the elements of a path, up and down.
func parts(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// read reads a file. If there is none, the error is fs.ErrNotExist.
func (m Machine) read(name string) ([]byte, error) {
	path, err := m.resolve(name)
	if err != nil {
		return nil, err
	}
	data, err := durable.Read(path)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return data, err
	case errors.Is(err, fs.ErrPermission):
		return nil, &UnreadableError{name, "permission denied, root may read it"}
	}
	return nil, &UnreadableError{name, err.Error()}
}

// glob lists the files that match a pattern, by the machine's own names.
func (m Machine) glob(pattern string) ([]string, error) {
	if m.Root == "" {
		return filepath.Glob(pattern)
	}
	dir := filepath.Dir(pattern[:strings.IndexAny(pattern, `*?[\`)] + "x")
	path, err := m.resolve(dir)
	if err != nil {
		return nil, err
	}
	literal := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
	found, err := filepath.Glob(literal + "/" + strings.TrimPrefix(pattern[len(dir):], "/"))
	for i := range found {
		found[i] = filepath.Join(dir, strings.TrimPrefix(found[i], path))
	}
	return found, err
}

// exists tells whether something is at a name.
func (m Machine) exists(name string) (bool, error) {
	path, err := m.resolve(name)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, &UnreadableError{name, err.Error()}
	}
	return true, nil
}

// same tells whether two names are those of one folder.
func (m Machine) same(a, b string) bool {
	if !filepath.IsAbs(a) || !filepath.IsAbs(b) {
		return false // a relative one depends on where containerd was started
	}
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	pathA, errA := m.resolve(a)
	pathB, errB := m.resolve(b)
	if errA != nil || errB != nil {
		return false
	}
	infoA, errA := os.Stat(pathA)
	infoB, errB := os.Stat(pathB)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}
