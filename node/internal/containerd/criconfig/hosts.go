package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Hosts is what a containerd has of a registry.
type Hosts struct {
	Folder  string // in which it looks; empty if there is none for that registry
	Content []byte // of its hosts.toml; nil if there is none
	Dropped string // why this containerd drops the whole of it; empty if it does not
}

// Hosts finds the hosts.toml of a registry as containerd does: in the first folder
// that is there, whatever is in it (HostDirFromRoot). Is the file dropped, or not
// there, containerd goes to the registry that the image's name means.
func (r *Report) Hosts(j Judgement, registry string) (h Hosts, err error) {
	if h.Folder, err = r.folder(j.Roots, registry); err != nil || h.Folder == "" {
		return h, err
	}
	h.Content, err = r.read(filepath.Join(h.Folder, "hosts.toml"))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		h.Dropped = j.drops(h.Content)
	}
	return h, err
}

// folder is of all roots the first with one of HOST_PORT_, HOST:PORT and _default.
func (m Machine) folder(roots []string, registry string) (string, error) {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = slices.Insert(names, 0, registry[:i]+"_"+registry[i+1:]+"_")
	}
	for _, root := range roots {
		for _, name := range names {
			dir := filepath.Join(root, name)
			if found, err := m.exists(dir); err != nil || found {
				return dir, err
			}
		}
	}
	return "", nil
}

var withPort = regexp.MustCompile(`^(.+)_(\d+)_$`)

// RegistryOf is the registry that a folder is for: of containerd's own spelling
// of one with a port too.
func RegistryOf(folder string) string {
	return withPort.ReplaceAllString(folder, "$1:$2")
}

// hostSettings are what containerd decodes of each host (hostFileConfig).
type hostSettings struct {
	Capabilities []string       `toml:"capabilities"`
	CACert       any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// drops finds what makes this containerd drop a whole hosts.toml (parseHostsFile):
// all that it says of that is an error in its log.
func (j Judgement) drops(data []byte) string {
	if len(data) == 0 {
		return "it is empty"
	}
	var file struct {
		hostSettings
		Server string                  `toml:"server"`
		Hosts  map[string]hostSettings `toml:"host"`
	}
	if err := toml.Unmarshal(data, &file); err != nil {
		return undecodable(err)
	}
	if file.Hosts == nil && j.release.patch < j.release.needsHost {
		return fmt.Sprintf("it has no [host] table, and containerd %s wants one", j.Release)
	}
	wrong := j.wrong(file.Server, file.hostSettings)
	for _, name := range slices.Sorted(maps.Keys(file.Hosts)) {
		if wrong == "" {
			wrong = j.wrong(name, file.Hosts[name])
		}
	}
	return wrong
}

// wrong is what containerd does not take of a host (parseHostConfig).
func (j Judgement) wrong(name string, h hostSettings) string {
	if name != "" && !strings.HasPrefix(name, "http") {
		name = "https://" + name
	}
	known := []string{"pull", "resolve", "push"}
	if j.release.referrers {
		known = append(known, "referrers")
	}
	for _, c := range h.Capabilities {
		if !slices.Contains(known, strings.ToLower(c)) {
			return fmt.Sprintf("it has the capability %.40q, which containerd %s does not know", c, j.Release)
		}
	}
	_, badURL := url.Parse(name)
	_, badTime := time.ParseDuration(h.DialTimeout)
	switch {
	case badURL != nil:
		return "the address of a host is no URL"
	case !texts(h.CACert, false) || !texts(h.Client, true):
		return "a ca or client is of the wrong type"
	case slices.ContainsFunc(slices.Collect(maps.Values(h.Header)), func(v any) bool { return !texts(v, false) }):
		return "a header is of the wrong type"
	case h.DialTimeout != "" && badTime != nil && j.release.major >= 2: // 1.x does not know it
		return "a dial_timeout is no duration"
	}
	return ""
}

// texts tells whether a value is nothing, a text, or a list of texts, or of pairs
// of texts too.
func texts(v any, pairs bool) bool {
	list, ok := v.([]any)
	if !ok {
		_, ok := v.(string)
		return ok || v == nil
	}
	return !slices.ContainsFunc(list, func(v any) bool {
		_, text := v.(string)
		pair, ok := v.([]any)
		return !text && !(pairs && ok && len(pair) == 2 && texts(pair, false))
	})
}
