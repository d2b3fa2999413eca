package catalog

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// filter is a set of tag rules, ready for use.
type filter struct {
	semver  *semver.Constraints
	regexp  *regexp.Regexp
	exclude []string
	newest  int
}

// maxRegexp bounds a regular expression, which RE2 matches in linear time.
const maxRegexp = 1024

func newFilter(r control.TagRules) (*filter, error) {
	f := &filter{exclude: r.Exclude, newest: r.Newest}
	var err error
	if r.Semver != "" {
		if f.semver, err = semver.NewConstraint(r.Semver); err != nil {
			return nil, fmt.Errorf("semver %q: %w", r.Semver, err)
		}
	}
	if len(r.Regexp) > maxRegexp {
		return nil, fmt.Errorf("regexp of %d bytes: at most %d", len(r.Regexp), maxRegexp)
	}
	if r.Regexp != "" {
		if f.regexp, err = regexp.Compile("^(?:" + r.Regexp + ")$"); err != nil {
			return nil, fmt.Errorf("regexp %q: %w", r.Regexp, err)
		}
	}
	return f, checkPatterns(r.Exclude)
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("exclude %q: %w", p, err)
		}
	}
	return nil
}

// apply keeps the tags that all rules want, the highest versions first.
func (f *filter) apply(tags []string) []string {
	type candidate struct {
		tag     string
		version *semver.Version // nil: the tag is not a version
	}
	var kept []candidate
	for _, tag := range tags {
		version, _ := semver.NewVersion(tag)
		switch {
		case !validTag(tag) || matchAny(f.exclude, tag):
		case f.semver != nil && (version == nil || !f.semver.Check(version)):
		case f.regexp != nil && !f.regexp.MatchString(tag):
		case f.newest > 0 && version == nil:
		default:
			kept = append(kept, candidate{tag, version})
		}
	}
	slices.SortFunc(kept, func(a, b candidate) int {
		switch {
		case a.version != nil && b.version != nil && !a.version.Equal(b.version):
			return b.version.Compare(a.version)
		case a.version != nil && b.version == nil:
			return -1
		case a.version == nil && b.version != nil:
			return 1
		}
		// 3.20.0 is more exact than 3.20, which stands for the same version.
		if n := len(b.tag) - len(a.tag); n != 0 {
			return n
		}
		return strings.Compare(a.tag, b.tag)
	})
	if f.newest > 0 && len(kept) > f.newest {
		kept = kept[:f.newest]
	}
	out := make([]string, len(kept))
	for i, c := range kept {
		out[i] = c.tag
	}
	return out
}

func matchAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, s)
		return ok
	})
}
