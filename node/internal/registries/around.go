package registries

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// ConflictError says that clients would pull around the node, and where that is set.
type ConflictError struct {
	Image, Prefix, File string
}

func (e *ConflictError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("pulls of %s would not go to the node: some clients of this user do not read the drop-in there", e.Image)
	}
	return fmt.Sprintf("pulls of %s would not go to the node: %s has a [[registry]] of its own for %s, which counts instead: take it out there", e.Image, e.File, e.Prefix)
}

// NotReadError says that a user's own file keeps the system's from being read.
type NotReadError struct{ File, Folder string }

func (e *NotReadError) Error() string {
	return fmt.Sprintf("%s takes the place of all of %s for this user, whose clients do not read the mirror there: remove it, or set this user up too by --folder %s", e.File, e.Folder, filepath.Dir(e.File))
}

// around tells where clients would pull around the node, with this drop-in.
func (s Setup) around(drop []byte) (out []error, err error) {
	own := filepath.Join(s.User, mainFile)
	if _, err := os.Stat(own); err == nil && s.Folder != s.User {
		return []error{&NotReadError{own, s.System}}, nil
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	environments, err := s.environments()
	if err != nil {
		return nil, err
	}
	all, err := s.loadAll(drop, environments)
	if err != nil {
		return nil, err
	}
	mine, err := s.load([]source{{s.dropIn(), true}}, drop)
	if err != nil {
		return nil, err
	}
	told := map[string]bool{}
	for _, c := range all {
		found := s.conflicts(c, mine, names)
		if c.alone != nil && len(found) > 0 {
			found = []error{c.alone}
		}
		for _, e := range found {
			if !told[e.Error()] {
				told[e.Error()] = true
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// conflicts are where a configuration leads around what the drop-in alone would say.
func (s Setup) conflicts(c, mine config, names []name) (out []error) {
	isOurs := func(r registry) bool {
		own, ok := mine.registries[r.Prefix]
		own.file = r.file
		return r.file == s.dropIn() || ok && reflect.DeepEqual(r, own) // copied to where it is read
	}
	for _, n := range names {
		if r, _ := c.find(n.prefix + "/x"); !isOurs(r) {
			out = append(out, &ConflictError{n.prefix, r.Prefix, r.file})
		}
	}
	for _, prefix := range c.prefixes() {
		r := c.registries[prefix]
		within := slices.ContainsFunc(names, func(n name) bool { return strings.HasPrefix(prefix, n.prefix+"/") })
		if within && !isOurs(r) && (!r.Blocked || len(r.Mirrors) > 0) {
			out = append(out, &ConflictError{prefix, prefix, r.file})
		}
	}
	return out
}

// Elsewhere tells which short names lead to registries whose pulls do not go to the
// node: by an alias, or because names without a registry are searched for there.
func (s Setup) Elsewhere() (out []string, err error) {
	all, err := s.loadAll(nil, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		elsewhere := func(image string) bool {
			r, _ := c.find(image)
			return r.file != s.dropIn()
		}
		for _, r := range c.search {
			if elsewhere(r + "/x") {
				out = append(out, "any, searched for at "+r)
			}
		}
		for short, image := range c.aliases {
			if image != "" && elsewhere(image) {
				out = append(out, short+" ("+image+")")
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
