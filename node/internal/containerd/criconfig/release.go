package criconfig

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The plugins whose tables matter here.
const (
	criV1          = "cri"                                    // 1.x, in a file of version 1
	criGRPC        = "io.containerd.grpc.v1.cri"              // 1.x, in one of version 2; the CRI service itself in 2.x
	criImages      = "io.containerd.cri.v1.images"            // 2.x
	criRuntime     = "io.containerd.cri.v1.runtime"           // 2.x
	transferPlugin = "io.containerd.transfer.v1.local"        // since 1.7; CRI's since 2.1
	verifierPlugin = "io.containerd.image-verifier.v1.bindir" // 2.x
)

// both is the default config_path of containerd since 2.2.0
// (plugins/cri/images/plugin.go).
const both = "/etc/containerd/certs.d:/etc/docker/certs.d"

// release says how a minor version of containerd understands its configuration.
// Each rule was read in the source of 1.6.36, 1.7.35, 2.0.14, 2.1.9, 2.2.9, 2.3.7
// and 2.4.2, and of the version that brought it where that is a later one of a
// series.
type release struct {
	major, minor, patch int

	// config is the newest version of a file that it takes (ValidateV2,
	// ValidateVersion). An older patch of 1.x than refuses takes a newer one for 2.
	config, refuses int
	// relative: a pattern in imports is relative to the file that has it
	// (resolveImports), and to containerd's working directory in patches older than this.
	relative int
	// prefixed plugin names begin with "io.containerd." (1.7, ValidateV2).
	prefixed bool
	// eachFile: a file is brought to the newest version before it is merged, and
	// not all of them after (LoadConfigWithPlugins, since 2.3).
	eachFile bool
	// path is the default config_path.
	path string
	// alone: in patches older than this, that path stays beside registry.mirrors.
	alone int
	// transfer: CRI pulls by the transfer service unless something in its table
	// keeps it from that (CheckLocalImagePullConfigs, since 2.1.0).
	transfer bool
	// needsVerifier: the transfer service does not load where the image verifier
	// plugin is disabled (plugins/transfer; until 2.3 it is an error).
	needsVerifier bool
	// needsHost: a hosts.toml without a [host] table is dropped (getSortedHosts)
	// by patches older than this one.
	needsHost int
	// referrers is a capability (parseHostConfig, since 2.2).
	referrers bool
}

// never is a patch that no version has.
const never = math.MaxInt

var releases = []release{
	{major: 1, minor: 6, config: 2, refuses: 32, relative: 29, needsHost: never},
	{major: 1, minor: 7, config: 2, refuses: 17, relative: 16, needsHost: 32, prefixed: true},
	{major: 2, minor: 0, config: 3},
	{major: 2, minor: 1, config: 3, transfer: true, needsVerifier: true},
	{major: 2, minor: 2, config: 3, transfer: true, needsVerifier: true, path: both, alone: 2, referrers: true},
	{major: 2, minor: 3, config: 4, transfer: true, path: both, referrers: true, eachFile: true},
	{major: 2, minor: 4, config: 4, transfer: true, path: both, referrers: true, eachFile: true},
}

func (r release) String() string { return fmt.Sprintf("%d.%d", r.major, r.minor) }

var versionNumber = regexp.MustCompile(`(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?`)

// releasesOf are those whose rules hold for a version, as containerd, its package
// or a Node's status names it ("containerd://1.6.20~ds1"). One older or newer than
// all that are known here is taken for the nearest. A version that is not known
// may be each that takes a file of this version.
func releasesOf(version string, config int) []release {
	if m := versionNumber.FindStringSubmatch(version); m != nil {
		major, _ := strconv.Atoi(m[1])
		minor, _ := strconv.Atoi(m[2])
		patch, _ := strconv.Atoi(m[3])
		of := releases[0]
		for _, r := range releases {
			if major > r.major || major == r.major && minor >= r.minor {
				of = r
			}
		}
		of.patch = patch
		return []release{of}
	}
	var out []release
	for _, r := range releases {
		if r.config >= config {
			r.patch = never - 1 // as the newest of its series
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return releasesOf("", 0) // which all say that they do not start
	}
	return out
}

// loaded is a configuration as one release has it in memory.
type loaded struct {
	version  int
	plugins  *table
	disabled map[string]string // plugin to the file that disables it
}

// trouble says why containerd does not do what it should, and how to mend that.
type trouble struct {
	why   string
	steps []string
}

// load merges the files of a configuration. With trouble, containerd does not start.
func (r release) load(c *configuration) (*loaded, *trouble) {
	l := &loaded{version: 1, plugins: label(nil, c.file), disabled: map[string]string{}}
	if r.major >= 2 {
		l.version = r.config
	}
	for _, f := range c.files {
		plugins, version, rename := label(f.Plugins, f.name), f.Version, func(name string) string { return name }
		if r.major >= 2 && version < 2 {
			rename, version = fullName, 0
		}
		for old := range plugins.of {
			if name := rename(old); name != old {
				plugins.of[name] = plugins.of[old]
				delete(plugins.of, old)
			}
		}
		for _, plugin := range f.Disabled {
			l.disabled[rename(plugin)] = f.name
		}
		switch {
		case r.major < 2:
			// mergeConfig: the table of a plugin replaces the previous one.
			for name, t := range plugins.of {
				l.plugins.of[name] = t
			}
		case r.eachFile:
			if version < r.config {
				migrate(plugins)
			}
			l.plugins.merge(plugins)
			version = max(version, r.config)
		default:
			l.plugins.merge(plugins)
		}
		if version != 0 {
			l.version = version
		}
	}
	if trouble := r.validate(c, l); trouble != nil {
		return nil, trouble
	}
	if r.major >= 2 && l.version < 3 {
		migrate(l.plugins)
	}
	return l, nil
}

// fullName is how 2.x rewrites the name of a plugin in a file of version 1
// (v1MigratePluginName), as far as it matters here.
func fullName(name string) string {
	if name == criV1 {
		return criGRPC
	}
	return name
}

// migrate moves what 1.x had in the table of its CRI plugin to where 2.x looks
// for it (migrateConfig of plugins/cri/images): a table "registry" that it finds
// there takes the place of the new one.
func migrate(plugins *table) {
	src := plugins.sub(criGRPC)
	if src == nil {
		return
	}
	dst := plugins.sub(criImages)
	if dst == nil {
		dst = label(nil, src.file)
		plugins.of[criImages] = dst
	}
	move := func(from *table, keys ...string) {
		for _, key := range keys {
			if v, ok := from.of[key]; ok {
				dst.of[key] = v
			}
		}
	}
	move(src, "registry", "max_concurrent_downloads", "image_pull_with_sync_fs")
	if of := src.sub("containerd"); of.sub("runtimes") != nil { // else it looks no further
		move(of, "disable_snapshot_annotations", "discard_unpacked_layers")
	}
}

// validate finds what containerd does not start with.
func (r release) validate(c *configuration, l *loaded) *trouble {
	if l.version > r.config && (r.major >= 2 || r.patch >= r.refuses) {
		file := c.file
		for _, f := range c.files {
			if f.Version == l.version {
				file = f.name
			}
		}
		return &trouble{
			fmt.Sprintf("containerd does not start: %s is of version %d, and this one takes %d at most", file, l.version, r.config),
			[]string{fmt.Sprintf("write %s in the form of version %d", file, r.config)},
		}
	}
	if r.major < 2 && l.version < 2 {
		return nil
	}
	named := func(name string) bool { // as a plugin has to be
		if r.major >= 2 {
			return strings.Contains(name, ".")
		}
		return strings.Count(name, ".") >= 3 && (!r.prefixed || strings.HasPrefix(name, "io.containerd."))
	}
	for _, f := range c.files {
		if r.major >= 2 && f.Version < 2 {
			continue // their names were made full
		}
		for _, name := range slices.Concat(f.Disabled, f.Required) {
			if !named(name) {
				return &trouble{
					fmt.Sprintf("containerd does not start: %s names the plugin %.40q, and with version 2 that must be a full name", f.name, name),
					[]string{fmt.Sprintf("in %s, write %q for %.40q, or take it out", f.name, fullName(name), name)},
				}
			}
		}
		for name := range f.Plugins {
			if r.major < 2 && !named(name) {
				return &trouble{
					fmt.Sprintf("containerd does not start: %s has a table [plugins.%.40s], and with version 2 that must be a full name", f.name, name),
					[]string{fmt.Sprintf("in %s, write [plugins.%q...] for each [plugins.%.40s...]", f.name, fullName(name), name)},
				}
			}
		}
	}
	return nil
}
