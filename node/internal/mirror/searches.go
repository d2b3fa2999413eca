package mirror

import (
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	maxUnknown = 4096
	// unsureFor is for how long it is not tried again to reach piece lists that
	// were out of reach: peers come and go.
	unsureFor = 2 * time.Second
)

// searches remembers failed searches of a whole repository: a search reads up
// to maxSearched blocks and their piece lists, and a client may ask for the
// same again and again. The result holds for one tree of the ledger, and is
// forgotten when that has grown.
type searches struct {
	inVain *lru.Cache[wanted, search]
}

type wanted struct {
	repository string
	digest     digest.Digest
}

type search struct {
	tree tlog.Tree
	err  error
	at   time.Time
}

func newSearches() (searches, error) {
	inVain, err := lru.New[wanted, search](maxUnknown)
	return searches{inVain}, err
}

// refusal is why a search would fail; nil if that is not known.
func (s searches) refusal(w wanted, tree tlog.Tree, now time.Time) error {
	last, ok := s.inVain.Get(w)
	if !ok || last.tree != tree || errors.Is(last.err, errUnsure) && now.Sub(last.at) >= unsureFor {
		return nil
	}
	return last.err
}

// add notes how a search ended that began at a tree.
func (s searches) add(w wanted, tree tlog.Tree, err error, now time.Time) {
	if !isWithdrawn(err) && (errors.Is(err, errNotOnLedger) || errors.Is(err, errUnsure)) {
		s.inVain.Add(w, search{tree, err, now})
	}
}
