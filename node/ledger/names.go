package ledger

import (
	"slices"
	"strings"
)

// names are the image names of the ledger, sorted.
type names struct {
	repositories []string            // sorted
	tags         map[string][]string // of each repository, sorted
}

// add reports whether the name is new.
func (n *names) add(image string) bool {
	colon := strings.LastIndexByte(image, ':')
	if colon < 0 {
		return false // not canonical: a block that queries will not show either
	}
	repository, tag := image[:colon], image[colon+1:]
	tags, known := n.tags[repository]
	if !known {
		repository = strings.Clone(repository)
		n.repositories = insert(n.repositories, repository)
	}
	at, found := slices.BinarySearch(tags, tag)
	if found {
		return false
	}
	n.tags[repository] = slices.Insert(tags, at, strings.Clone(tag))
	return true
}

func insert(sorted []string, s string) []string {
	at, _ := slices.BinarySearch(sorted, s)
	return slices.Insert(sorted, at, s)
}

// tagsOf lists up to limit tags of a repository that sort after the tag after.
func (x *index) tagsOf(repository, after string, limit int) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	tags := x.names.tags[repository]
	at, found := slices.BinarySearch(tags, after)
	if found {
		at++
	}
	return slices.Clone(tags[at:min(len(tags), at+limit)])
}

// repositories lists the names of all repositories, sorted.
func (x *index) repositories() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.names.repositories)
}
