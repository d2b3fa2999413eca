package ledger

import (
	"errors"
	"fmt"

	"filippo.io/torchwood"
)

// MaxBundle is a full entry bundle in bytes: 256 entries with their 16-bit lengths
// (c2sp.org/tlog-tiles).
const MaxBundle = torchwood.TileWidth * (2 + MaxEntrySize)

var (
	// ErrNoAnswer is in the errors of a source of the ledger that does not answer as
	// it should, which says nothing about the ledger.
	ErrNoAnswer = errors.New("no answer")
	// ErrSilent is in the errors of one that does not even refuse.
	ErrSilent = fmt.Errorf("%w in time", ErrNoAnswer)
)
