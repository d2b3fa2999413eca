package mirror

import (
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// maxLists is how many piece lists are kept in memory.
const maxLists = 256

// blobsOf are the blobs of one piece list.
type blobsOf map[digest.Digest]pieces.Blob

// lists are the piece lists in use, and which of them has a blob: after a
// manifest its layers are found without a search. It is safe for concurrent
// use.
type lists struct {
	mu      sync.Mutex // guards what follows
	known   *simplelru.LRU[digest.Digest, blobsOf]
	holders map[digest.Digest][]digest.Digest // blob -> lists
}

func newLists() (*lists, error) {
	l := &lists{holders: map[digest.Digest][]digest.Digest{}}
	var err error
	l.known, err = simplelru.NewLRU(maxLists, l.evicted)
	return l, err
}

// evicted is called by known; mu is held.
func (l *lists) evicted(list digest.Digest, blobs blobsOf) {
	for d := range blobs {
		l.holders[d] = slices.DeleteFunc(l.holders[d], func(o digest.Digest) bool { return o == list })
		if len(l.holders[d]) == 0 {
			delete(l.holders, d)
		}
	}
}

func (l *lists) get(list digest.Digest) (blobsOf, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known.Get(list)
}

func (l *lists) add(list digest.Digest, content *pieces.List) blobsOf {
	blobs := make(blobsOf, len(content.Blobs))
	for _, b := range content.Blobs {
		blobs[b.Digest] = b
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.known.Get(list); ok {
		return old // another request was faster
	}
	l.known.Add(list, blobs)
	for d := range blobs {
		l.holders[d] = append(l.holders[d], list)
	}
	return blobs
}

// holding gives the lists in memory that have a blob.
func (l *lists) holding(d digest.Digest) []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.holders[d])
}
