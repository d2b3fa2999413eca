package quorum

import (
	"cmp"
	"fmt"
)

// Ballot names one start of a publisher. Two starts never share a ballot, since
// the ID is drawn at random, and any two are in order.
type Ballot struct {
	Number uint64 `json:"number"` // above every number that the start knew of
	ID     string `json:"id"`     // random, at least 128 bits
}

func (b Ballot) String() string {
	if b == (Ballot{}) {
		return "no ballot"
	}
	return fmt.Sprintf("ballot %d/%.8s", b.Number, b.ID)
}

// Compare orders ballots: by number, then by ID.
func (b Ballot) Compare(c Ballot) int {
	return cmp.Or(cmp.Compare(b.Number, c.Number), cmp.Compare(b.ID, c.ID))
}

// Less tells whether b yields to c.
func (b Ballot) Less(c Ballot) bool { return b.Compare(c) < 0 }
