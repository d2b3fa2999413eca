package catalog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	maxLine  = 64 << 10
	maxFile  = 1 << 20 // of one library/ file, bytes
	maxTags  = 4096    // of one library/ file
	maxField = 64 << 10
)

// Build is one stanza of a library/ file: one image for some architectures,
// under several tags (docker-library/official-images, "Instruction format").
type Build struct {
	Tags          []string
	SharedTags    []string // which several builds have, each for its platforms
	Architectures []string
}

// ParseLibrary reads a library/ file: stanzas as in RFC 2822, separated by
// blank lines. A line that begins with white space continues the previous one;
// a line that begins with '#' is a comment. The first stanza holds what is
// common to all, and is a build only if it has tags itself.
func ParseLibrary(r io.Reader) ([]Build, error) {
	stanzas, err := readStanzas(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	var builds []Build
	global := map[string][]byte{}
	count := 0
	for i, stanza := range stanzas {
		if i == 0 && len(stanza["tags"]) == 0 && len(stanza["sharedtags"]) == 0 {
			global = stanza
			continue
		}
		b, err := newBuild(stanza, global)
		if err != nil {
			return nil, err
		}
		if count += len(b.Tags) + len(b.SharedTags); count > maxTags {
			return nil, fmt.Errorf("more than %d tags", maxTags)
		}
		builds = append(builds, b)
	}
	return builds, nil
}

func newBuild(stanza, global map[string][]byte) (Build, error) {
	field := func(name string) []string {
		if v, ok := stanza[name]; ok {
			return fields(string(v))
		}
		return fields(string(global[name]))
	}
	b := Build{Tags: field("tags"), SharedTags: field("sharedtags"), Architectures: field("architectures")}
	if len(b.Tags)+len(b.SharedTags) == 0 {
		return b, errors.New("a stanza without Tags and SharedTags")
	}
	if len(b.Architectures) == 0 {
		b.Architectures = []string{"amd64"}
	}
	for _, tag := range slices.Concat(b.Tags, b.SharedTags) {
		if !validTag(tag) {
			return b, fmt.Errorf("%.200q is not a tag", tag)
		}
	}
	return b, nil
}

// readStanzas reads the fields of each stanza, by their names in lower case.
func readStanzas(r io.Reader) ([]map[string][]byte, error) {
	var stanzas []map[string][]byte
	var stanza map[string][]byte // nil between stanzas
	last := ""                   // name of the field that a line may continue
	size := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; lines.Scan(); n++ {
		if size += len(lines.Bytes()) + 1; size > maxFile+1 {
			return nil, fmt.Errorf("more than %d bytes", maxFile)
		}
		line := strings.TrimSuffix(lines.Text(), "\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			stanza, last = nil, ""
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("line %d continues no field", n)
			}
			if stanza[last] = append(stanza[last], " "+strings.TrimSpace(line)...); len(stanza[last]) > maxField {
				return nil, fmt.Errorf("line %d: a field of more than %d bytes", n, maxField)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name != strings.TrimSpace(name) || name == "" {
				return nil, fmt.Errorf("line %d is not 'NAME: VALUE'", n)
			}
			if stanza == nil {
				stanza = map[string][]byte{}
				stanzas = append(stanzas, stanza)
			}
			last = strings.ToLower(name)
			if _, twice := stanza[last]; twice {
				return nil, fmt.Errorf("line %d: %.100s a second time", n, name)
			}
			stanza[last] = []byte(strings.TrimSpace(value))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	return stanzas, nil
}

// fields takes a comma-separated list apart.
func fields(s string) (out []string) {
	seen := map[string]bool{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" && !seen[item] {
			seen[item] = true
			out = append(out, item)
		}
	}
	return out
}

// validTag follows the OCI distribution-spec, "Pulling manifests".
func validTag(tag string) bool {
	if tag == "" || len(tag) > 128 || tag[0] == '.' || tag[0] == '-' {
		return false
	}
	for _, c := range tag {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
