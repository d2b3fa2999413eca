package registries

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	mainFile     = "registries.conf"
	dropInFolder = "registries.conf.d"
	dropInSuffix = ".conf"
	maxDropIns   = 256
)

// endpoint is where content is fetched from. Its Location takes the place of the
// prefix in an image's name.
type endpoint struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// registry is a [[registry]] of a configuration.
type registry struct {
	endpoint
	Prefix             string     `toml:"prefix"`
	Blocked            bool       `toml:"blocked"`
	MirrorByDigestOnly bool       `toml:"mirror-by-digest-only"`
	Mirrors            []endpoint `toml:"mirror"`
	file               string
}

// config is what all files together say, as containers/image reads them
// (containers-registries.conf(5), pkg/sysregistriesv2).
type config struct {
	registries map[string]registry // by prefix
	search     []string            // registries of names without one
	aliases    map[string]string   // of short names
	alone      *EnvironmentError   // set where a file is read alone, without drop-ins
}

// v1 is the old format, of which only the main file may be.
type v1 struct {
	Search, Insecure, Block struct{ Registries []string }
}

// content is what is read of one file.
type content struct {
	Registry    []registry        `toml:"registry"`
	Unqualified []string          `toml:"unqualified-search-registries"`
	Aliases     map[string]string `toml:"aliases"`
	V1          v1                `toml:"registries"`
}

// source is a file that clients read.
type source struct {
	file   string
	dropIn bool
}

// load reads files, the later ones after the earlier. Of the drop-in at ours, which
// may not be there yet, it takes drop instead, if that is not nil.
func (s Setup) load(files []source, drop []byte) (config, error) {
	c := config{registries: map[string]registry{}, aliases: map[string]string{}}
	for _, f := range files {
		data, exists, err := durable.ReadIfThere(f.file)
		if f.file == s.dropIn() && drop != nil {
			data, exists, err = drop, true, nil
		}
		if err != nil {
			return c, err
		}
		if !exists {
			continue
		}
		if err := c.add(f.file, data, f.dropIn); err != nil {
			return c, fmt.Errorf("%s cannot be read, by podman, skopeo and CRI-O neither: %w: correct it first", f.file, err)
		}
	}
	return c, nil
}

// loadAll reads what clients read, once for clients without environment variables
// about it, and once for each environment that has some.
func (s Setup) loadAll(drop []byte, environments []environment) (out []config, err error) {
	for _, e := range append([]environment{{}}, environments...) {
		for _, files := range []func(environment) ([]source, error){s.filesBefore6, s.filesSince6} {
			list, err := files(e)
			if err != nil {
				return nil, err
			}
			c, err := s.load(list, drop)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
		if file := e.files[mainVariable]; file != "" {
			out[len(out)-1].alone = &EnvironmentError{file, e.where, s.dropIn()}
		}
	}
	return out, nil
}

// filesBefore6 are those that podman 4 and 5 and their like read (containers/image
// before 5.42): a user's own registries.conf takes the place of all of the system's.
func (s Setup) filesBefore6(e environment) ([]source, error) {
	main, folders := filepath.Join(s.System, mainFile), []string{s.System, s.User}
	switch own := filepath.Join(s.User, mainFile); {
	case e.main() != "":
		main = e.main()
	case exists(own):
		main, folders = own, []string{s.User}
	}
	out := []source{{main, false}}
	for _, folder := range slices.Compact(folders) {
		names, err := s.dropIns(filepath.Join(folder, dropInFolder))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			out = append(out, source{filepath.Join(folder, dropInFolder, name), true})
		}
	}
	return out, nil
}

// filesSince6 are those that podman 6 and its like read (containers/storage
// pkg/configfile): the first registries.conf, and the drop-ins of all folders in the
// order of their names, of which that in the first folder counts.
func (s Setup) filesSince6(e environment) (out []source, err error) {
	defer func() {
		if last := e.files[lastVariable]; last != "" {
			out = append(out, source{last, true})
		}
	}()
	if alone := e.files[mainVariable]; alone != "" {
		return []source{{alone, false}}, nil
	}
	folders := []string{s.XDG, s.System, s.Vendor}
	mains := []string{e.main()}
	for _, folder := range folders {
		mains = append(mains, filepath.Join(folder, mainFile))
	}
	if i := slices.IndexFunc(mains, exists); i >= 0 {
		out = append(out, source{mains[i], false})
	}
	dirs := []string{filepath.Join(s.XDG, dropInFolder)}
	for _, folder := range folders[1:] {
		for _, special := range append(slices.Clone(s.Special), dropInFolder) {
			dirs = append(dirs, filepath.Join(folder, special))
		}
	}
	found := map[string]string{}
	for _, dir := range slices.Backward(dirs) {
		names, err := s.dropIns(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found[name] = filepath.Join(dir, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, source{found[name], true})
	}
	return out, nil
}

// dropIns are the names of those in a folder, sorted, with ours where it belongs.
func (s Setup) dropIns(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), dropInSuffix) {
			names = append(names, e.Name())
		}
	}
	if filepath.Join(dir, dropInName) == s.dropIn() && !slices.Contains(names, dropInName) {
		names = append(names, dropInName)
		slices.Sort(names)
	}
	if len(names) > maxDropIns {
		return nil, fmt.Errorf("more than %d files in %s", maxDropIns, dir)
	}
	return names, nil
}

// add reads one more file, whose registries replace earlier ones with the same
// prefix.
func (c *config) add(file string, data []byte, isDropIn bool) error {
	var f content
	if err := toml.Unmarshal(data, &f); err != nil {
		return err
	}
	isOld := f.V1.Search.Registries != nil || f.V1.Insecure.Registries != nil || f.V1.Block.Registries != nil
	switch {
	case isOld && isDropIn:
		return errors.New("it has the format of version 1, which no drop-in may have")
	case isOld && (f.Registry != nil || f.Unqualified != nil || f.Aliases != nil):
		return errors.New("it mixes the formats of version 1 and 2")
	case isOld:
		f.Registry, f.Unqualified = f.V1.registries(), f.V1.Search.Registries
	}
	seen := map[string]bool{}
	for _, r := range f.Registry {
		if err := r.complete(); err != nil {
			return err
		}
		if seen[r.Prefix] {
			continue // the first one of a file counts
		}
		seen[r.Prefix] = true
		r.file = file
		c.registries[r.Prefix] = r
	}
	if f.Unqualified != nil {
		c.search = f.Unqualified
	}
	for short, name := range f.Aliases {
		c.aliases[short] = name
	}
	return nil
}

// registries are what a file of version 1 blocks or allows without TLS.
func (f v1) registries() (out []registry) {
	add := func(locations []string, set func(*registry)) {
		for _, location := range locations {
			i := slices.IndexFunc(out, func(r registry) bool { return r.Location == location })
			if i < 0 {
				i = len(out)
				out = append(out, registry{endpoint: endpoint{Location: location}})
			}
			set(&out[i])
		}
	}
	add(f.Block.Registries, func(r *registry) { r.Blocked = true })
	add(f.Insecure.Registries, func(r *registry) { r.Insecure = true })
	return out
}

// complete fills in what may be left out.
func (r *registry) complete() error {
	r.Location, r.Prefix = strings.TrimRight(r.Location, "/"), strings.TrimRight(r.Prefix, "/")
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	switch {
	case r.Prefix == "":
		return errors.New("a [[registry]] has neither prefix nor location")
	case r.Location == "" && !strings.HasPrefix(r.Prefix, "*."):
		return fmt.Errorf("the [[registry]] of %s has no location", r.Prefix)
	case strings.Contains(r.Location, "://") || strings.Contains(r.Prefix, "://"):
		return fmt.Errorf("the [[registry]] of %s is named by a URL", r.Prefix)
	}
	for i := range r.Mirrors {
		if r.Mirrors[i].Location = strings.TrimRight(r.Mirrors[i].Location, "/"); r.Mirrors[i].Location == "" {
			return fmt.Errorf("a mirror of %s has no location", r.Prefix)
		}
	}
	return nil
}

// find is the registry that counts for an image: that of the longest prefix.
func (c config) find(image string) (found registry, ok bool) {
	for _, prefix := range c.prefixes() {
		if matches(image, prefix) && len(prefix) > len(found.Prefix) {
			found, ok = c.registries[prefix], true
		}
	}
	return found, ok
}

func (c config) prefixes() (out []string) {
	for prefix := range c.registries {
		out = append(out, prefix)
	}
	slices.Sort(out)
	return out
}

// matches tells whether an image, or a registry, is one of a prefix.
func matches(image, prefix string) bool {
	rest, ok := strings.CutPrefix(image, prefix)
	if domain, wild := strings.CutPrefix(prefix, "*"); wild {
		var before string
		before, rest, ok = strings.Cut(image, domain)
		ok = ok && !strings.Contains(before, "/")
	}
	return ok && (rest == "" || strings.ContainsRune(":/@", rune(rest[0])))
}
