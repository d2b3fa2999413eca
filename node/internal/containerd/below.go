package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// putBelow puts the mirror before the hosts of a user's hosts.toml. Everything
// else stays byte for byte as it is, except for paths of files, which move makes
// valid from another folder: a newer containerd may know keys that we do not.
func putBelow(hosts []byte, mirror string, move func(string) string) ([]byte, error) {
	if err := checkHosts(hosts); err != nil {
		return nil, err
	}
	var edits []edit
	var table []string // that expressions are in
	placed := false
	p := unstable.Parser{}
	p.Reset(hosts)
	for p.NextExpression() {
		e := p.Expression()
		key, at := keyOf(e)
		if e.Kind != unstable.KeyValue {
			if table = key; len(key) > 1 && key[0] == "host" {
				if key[1] == mirror {
					return nil, fmt.Errorf("it has %s itself as a host: take that out", mirror)
				}
				if !placed {
					line := bytes.LastIndexByte(hosts[:at], '\n') + 1
					edits, placed = append(edits, edit{line, line, host(mirror) + "\n"}), true
				}
			}
			continue
		}
		if key = slices.Concat(table, key); key[0] == "host" && len(table) < 2 {
			return nil, errors.New(`it has hosts without a line like [host."https://registry.example"], which containerd 2.x does not see`)
		}
		if namesFiles(key) {
			eachString(e.Value(), func(n *unstable.Node) {
				if path := string(n.Data); move(path) != path {
					edits = append(edits, edit{int(n.Raw.Offset), int(n.Raw.Offset + n.Raw.Length), quote(move(path))})
				}
			})
		}
	}
	if err := p.Error(); err != nil {
		return nil, err
	}
	if !placed {
		edits = append(edits, edit{len(hosts), len(hosts), "\n\n" + host(mirror)})
	}
	return apply(hosts, edits), nil
}

// edit puts a text in place of a part of a file.
type edit struct {
	from, to int
	text     string
}

// apply makes edits that are in the order of the file.
func apply(content []byte, edits []edit) (out []byte) {
	done := 0
	for _, e := range edits {
		out = append(append(out, content[done:e.from]...), e.text...)
		done = e.to
	}
	return append(out, content[done:]...)
}

// keyOf gives the parts of an expression's key, and where it begins.
func keyOf(e *unstable.Node) (parts []string, at int) {
	for it := e.Key(); it.Next(); {
		if n := it.Node(); len(parts) == 0 {
			at = int(n.Raw.Offset)
		}
		parts = append(parts, string(it.Node().Data))
	}
	return parts, at
}

// namesFiles tells whether a setting, of the server or of a host, is of files.
func namesFiles(key []string) bool {
	last := key[len(key)-1]
	return (last == "ca" || last == "client") && (len(key) == 1 || len(key) == 3 && key[0] == "host")
}

func eachString(n *unstable.Node, do func(*unstable.Node)) {
	if n.Kind == unstable.String {
		do(n)
	}
	for it := n.Children(); it.Next(); {
		eachString(it.Node(), do)
	}
}

// hostSettings are those of a host in a hosts.toml that containerd 1.6 to 2.4 knows.
type hostSettings struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// checkHosts refuses a hosts.toml of which containerd takes nothing: it would
// take nothing of ours either, and go to the registry that the name means.
func checkHosts(content []byte) error {
	var all struct {
		hostSettings
		Server string                  `toml:"server"`
		Hosts  map[string]hostSettings `toml:"host"`
	}
	if err := toml.Unmarshal(content, &all); err != nil {
		return fmt.Errorf("containerd does not read it: %w", err)
	}
	if err := all.check(all.Server); err != nil {
		return fmt.Errorf("containerd does not read it: %w", err)
	}
	for name, h := range all.Hosts {
		if err := h.check(name); err != nil {
			return fmt.Errorf("containerd does not read it: host %q: %w", name, err)
		}
	}
	return nil
}

func (h hostSettings) check(server string) error {
	for _, c := range h.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
			return fmt.Errorf("unknown capability %q", c)
		}
	}
	if !isStrings(h.CA) {
		return errors.New(`"ca" is neither a string nor a list of them`)
	}
	if pairs, ok := h.Client.([]any); ok {
		for _, pair := range pairs {
			if list, ok := pair.([]any); !isStrings(pair) || ok && len(list) != 2 {
				return errors.New(`"client" has what is neither a string nor a pair of them`)
			}
		}
	} else if !isStrings(h.Client) {
		return errors.New(`"client" is neither a string nor a list`)
	}
	for name, value := range h.Header {
		if !isStrings(value) {
			return fmt.Errorf("header %q is neither a string nor a list of them", name)
		}
	}
	if h.DialTimeout != "" {
		if _, err := time.ParseDuration(h.DialTimeout); err != nil {
			return fmt.Errorf("dial_timeout: %w", err)
		}
	}
	_, err := url.Parse(server)
	return err
}

// isStrings tells whether a value is a string, a list of them, or not there.
func isStrings(value any) bool {
	switch v := value.(type) {
	case nil, string:
		return true
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok })
	}
	return false
}
