package quorum

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Format is the version of the encoding of a State.
const Format = 1

// Role is what a key's cosignature says.
type Role string

const (
	// Mirror: "I hold all entries". It signs State.Log and never State.Pending.
	Mirror Role = "mirror"
	// Witness: "I have seen no other history". It signs State.Pending and holds no
	// entries; it has a name and a key of its own.
	Witness Role = "witness"
)

// State is the one durable record of a cosigner key for one origin. All ways in,
// ours and those of C2SP, go through it, so that two of them can never make the
// key sign two histories. It is replaced as a whole, atomically.
type State struct {
	Format int    `json:"format"`
	Origin string `json:"origin"`
	// Key identifies the cosigner's keys (a hash of its vkeys). A record is of no
	// use to another key.
	Key  string `json:"key"`
	Role Role   `json:"role"`
	// Serial counts the changes of the record. Who keeps the highest one that this
	// member has ever answered with can tell a record that was rolled back: see Open.
	Serial uint64 `json:"serial"`

	// Promised: nothing is accepted any more of a lower ballot.
	Promised Ballot `json:"promised,omitzero"`
	// Staged is what was accepted last. All entries of its tree are durable here.
	// It is not served: a staged tree may still lose.
	Staged Staged `json:"staged,omitzero"`
	// Pending is the largest signed tree that this key has accepted, at or ahead of
	// Log (tlog-mirror's pending checkpoint, tlog-witness's latest checkpoint).
	Pending Signed `json:"pending,omitzero"`
	// Log is the largest signed tree of which all entries are durable and served
	// (tlog-mirror's mirror checkpoint).
	Log Signed `json:"log,omitzero"`
	// Proven is the largest tree with a note whose cosignatures satisfied the
	// ledger's policy, for the day on which outside witnesses are gone.
	Proven Signed `json:"proven,omitzero"`
}

// Staged is an accepted proposal.
type Staged struct {
	Ballot Ballot `json:"ballot"`
	Config Config `json:"config"`
	Tree   Tree   `json:"tree"`
}

// New is the record of a key that has never signed. It may be made only together
// with the key itself.
func New(origin, key string, role Role) State {
	return State{Format: Format, Origin: origin, Key: key, Role: role}
}

// Encode writes the record.
func (s State) Encode() ([]byte, error) { return json.Marshal(s) }

// Decode reads a record. It refuses one of a newer format: a program that does not
// know all promises in it would break some.
func Decode(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("decoding the record of a cosigner: %w", err)
	}
	if s.Format != Format {
		return State{}, fmt.Errorf("the record of the cosigner for %q has format %d and this program knows %d: run the release that wrote it, or a later one",
			s.Origin, s.Format, Format)
	}
	if s.Origin == "" || s.Key == "" || s.Role != Mirror && s.Role != Witness {
		return State{}, errors.New("the record of a cosigner lacks its origin, key or role: replace the member by one with a new key")
	}
	return s, nil
}

// Open checks that the record that was found on disk is the one that the key has
// made its promises by: found tells whether there was one, floor is the highest
// Serial that is known of it from elsewhere. A floor kept beside the record would
// be rolled back together with it. The error is a StateLost: the member then signs
// and stages nothing.
func Open(s State, found bool, origin, key string, floor uint64) (State, error) {
	switch {
	case !found:
		return State{}, refuse(StateLost, "the record of cosigner %s for %s is gone but its key is not: replace the member by one with a new key", key, origin)
	case s.Origin != origin || s.Key != key:
		return State{}, refuse(StateLost, "the record on disk is of cosigner %s for %s, not of %s for %s: replace the member by one with a new key", s.Key, s.Origin, key, origin)
	case s.Serial < floor:
		return State{}, refuse(StateLost, "the record of cosigner %s is older (%d) than one that it has answered with (%d), as after a restored volume: replace the member by one with a new key",
			key, s.Serial, floor)
	}
	return s, nil
}

// Cosigned is the largest tree that this key may have signed, with its note.
func (s State) Cosigned() Signed {
	if s.Role == Witness {
		return s.Pending
	}
	return s.Log
}

// signed are the trees of the record that the log has signed.
func (s State) signed() [3]Tree { return [...]Tree{s.Pending.Tree, s.Log.Tree, s.Proven.Tree} }

// Reply is what a member answers: its record after the request, without notes.
type Reply struct {
	Key      string `json:"key"`
	Serial   uint64 `json:"serial"`
	Promised Ballot `json:"promised"`
	Staged   Staged `json:"staged"`
	Pending  Tree   `json:"pending"`
	Log      Tree   `json:"log"`
	Proven   Tree   `json:"proven"`
}

// Reply is the record as an answer.
func (s State) Reply() Reply {
	return Reply{Key: s.Key, Serial: s.Serial, Promised: s.Promised, Staged: s.Staged, Pending: s.Pending.Tree, Log: s.Log.Tree, Proven: s.Proven.Tree}
}

// changed is the record with its new serial.
func (s State) changed() State {
	s.Serial++
	return s
}
