package index

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// names are image names: the tags of each repository, sorted.
type names map[string][]string

// isName tells whether an image name can be in the index, where names are
// words in lines. A canonical one can; a block of another one is found by its
// height alone, and queries do not show it.
func isName(image []byte) bool {
	return bytes.IndexByte(image, ':') > 0 && !bytes.ContainsFunc(image, func(r rune) bool { return r <= ' ' || r > '~' })
}

// add adds names, a line each.
func (n names) add(lines []byte) {
	all := string(lines)
	for line := range strings.Lines(all) {
		name := strings.TrimSuffix(line, "\n")
		colon := strings.LastIndexByte(name, ':')
		tags := n[name[:colon]]
		if at, found := slices.BinarySearch(tags, name[colon+1:]); !found {
			n[name[:colon]] = slices.Insert(tags, at, name[colon+1:])
		}
	}
}

// encode gives a line for each repository: its name and its tags, with spaces
// between.
func (n names) encode() (out []byte) {
	for _, repository := range slices.Sorted(maps.Keys(n)) {
		out = append(out, repository...)
		for _, tag := range n[repository] {
			out = append(append(out, ' '), tag...)
		}
		out = append(out, '\n')
	}
	return out
}

// Tags lists up to limit tags of a repository that sort after the tag after.
func (x *Index) Tags(repository, after string, limit int) ([]string, error) {
	defer x.searchable()()
	out := slices.Clone(x.tail.images[repository])
	for _, s := range x.segments {
		tags, err := s.tags(repository)
		if err != nil {
			return nil, err
		}
		out = append(out, tags...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	at, found := slices.BinarySearch(out, after)
	if found {
		at++
	}
	return out[at:min(len(out), at+limit)], nil
}

// Repositories lists the names of all repositories, sorted.
func (x *Index) Repositories() []string {
	defer x.searchable()()
	all := slices.Collect(maps.Keys(x.tail.images))
	for _, s := range x.segments {
		for _, l := range s.images {
			all = append(all, l.repository)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
