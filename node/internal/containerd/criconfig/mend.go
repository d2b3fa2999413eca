package criconfig

import (
	"fmt"
	"strings"
)

// whyNot says why a folder is not looked at that the list of config_path has, or
// has not either.
func (r release) whyNot(c *configuration, l *loaded, path, file, emptied string, listed bool) string {
	const one = ", which the transfer service takes for the name of one folder"
	var why string
	switch {
	case file != "" && listed:
		return fmt.Sprintf("its config_path is %q, by %s%s", path, file, one)
	case file != "":
		return fmt.Sprintf("its config_path is %q, by %s", path, file)
	case emptied != "":
		why = "config_path is set to nothing by " + emptied
	case len(c.files) == 0:
		why = "there is no " + c.file
	default:
		if why = r.unseen(c, l); why == "" {
			why = "no config_path is set in " + c.file + " or what it imports"
		}
	}
	if path != "" {
		why += fmt.Sprintf("; its own is %q", path)
		if listed {
			why += one
		}
	}
	return why
}

// unseen tells of a config_path that stands where this release does not look.
func (r release) unseen(c *configuration, l *loaded) string {
	for _, f := range c.files {
		plugins := label(f.Plugins, f.name)
		for _, name := range []string{criV1, criGRPC, criImages} {
			if path, _, _ := value[string](plugins.sub(name, "registry"), "config_path"); path == "" {
				continue
			}
			where := fmt.Sprintf("config_path is set in %s, in the table [plugins.%s.registry]", f.name, quoted(name))
			switch {
			case r.major < 2 && name == r.table(l):
				return fmt.Sprintf("%s, but containerd %s takes the whole table of that plugin in %s in its place", where, r, l.plugins.sub(name).file)
			case r.major < 2 && l.version < 2:
				return fmt.Sprintf("%s, of which containerd %s takes no notice without 'version = 2'", where, r)
			}
			return fmt.Sprintf("%s, of which containerd %s takes no notice in a file of version %d", where, r, max(f.Version, 1))
		}
	}
	return ""
}

// set is the step that sets config_path, where this release looks for it.
func (r release) set(c *configuration, l *loaded, cri *table, certsD string) string {
	f, name := c.main(), r.table(l)
	_, by, ok := value[string](cri.sub("registry"), "config_path")
	if !ok && r.major < 2 && cri != nil {
		by, ok = cri.file, true // all of the table that counts is in one file
	}
	for _, other := range c.files {
		if ok && other.name == by {
			f = other
		}
	}
	switch {
	case len(c.files) == 0 && r.major < 2:
		return fmt.Sprintf("write %s:\n\n  version = 2\n\n%s", c.file, settings(criGRPC, certsD))
	case len(c.files) == 0:
		return fmt.Sprintf("write %s:\n\n  version = 3\n\n%s", c.file, settings(name, certsD))
	case r.major < 2 && name == criV1 && namedInFull(f):
		return fmt.Sprintf("in %s, write 'version = 2' as the first line, and have\n\n%s", f.name, settings(criGRPC, certsD))
	}
	if old := r.moved(l, f); old != "" {
		name = old
	}
	return fmt.Sprintf("in %s, have\n\n%s", f.name, settings(name, certsD))
}

// namedInFull tells whether a file without a version has the names of version 2.
func namedInFull(f source) bool {
	for name := range f.Plugins {
		if !strings.Contains(name, ".") {
			return false
		}
	}
	return len(f.Plugins) > 0
}

// moved is the table of 1.x in a file from which 2.x moves CRI's registry to
// where it looks; empty if it does not, or none is there and need be.
func (r release) moved(l *loaded, f source) string {
	if r.major < 2 || r.eachFile && f.Version >= r.config || !r.eachFile && l.version >= 3 {
		return ""
	}
	plugins, name := label(f.Plugins, f.name), criGRPC
	if f.Version < 2 && plugins.sub(criV1) != nil {
		name = criV1
	}
	if f.Version == 2 || plugins.sub(name, "registry") != nil {
		return name
	}
	return ""
}

func settings(table, certsD string) string {
	return fmt.Sprintf("  [plugins.%s.registry]\n    config_path = %q\n", quoted(table), certsD)
}

// quoted is a plugin's name as a key of TOML.
func quoted(name string) string {
	if strings.Contains(name, ".") {
		return fmt.Sprintf("%q", name)
	}
	return name
}

func list(names []string) string { return strings.Join(names, " and ") }
