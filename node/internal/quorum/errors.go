package quorum

import "fmt"

// Reason says why a request was refused, and so what its sender does next.
type Reason string

const (
	// Outbid: another start of the publisher holds a higher ballot. Step down.
	Outbid Reason = "Outbid"
	// Behind: entries are missing. Send the request again with those from
	// Refusal.Size on.
	Behind Reason = "Behind"
	// Stale: the tree is smaller than what is on record, or the sender names
	// another size than Refusal.Size. Begin from that one. C2SP: 409.
	Stale Reason = "Stale"
	// Contradicts: the tree does not agree with one that the log has signed. If it is
	// signed too, the log's key was misused; if not, another publisher may be ahead of
	// the sender: start again. C2SP: 422.
	Contradicts Reason = "Contradicts"
	// NotStaged: the sender has nothing staged here under its ballot. Stage first.
	NotStaged Reason = "NotStaged"
	// Malformed: the request can be right under no record. C2SP: 400.
	Malformed Reason = "Malformed"
	// StateLost: the record is not the one that the key has made its promises by.
	// Replace the member by one with a new key.
	StateLost Reason = "CosignerStateLost"

	// NotServing: the publisher is not in office. Ask again, or the one that is.
	NotServing Reason = "NotServing"
	// Held: the same is under way. Wait for its end.
	Held Reason = "Held"
	// Full: too much waits already. Ask again later.
	Full Reason = "Full"
)

// Refusal is the error of all transitions. The record has not changed, unless the
// transition says otherwise.
type Refusal struct {
	Reason Reason `json:"reason"`
	Text   string `json:"text"`
	// Size is where to go on, for Behind and Stale.
	Size int64 `json:"size,omitempty"`
	// Promised is the ballot that was promised instead, for Outbid.
	Promised Ballot `json:"promised,omitzero"`
}

func (r *Refusal) Error() string { return r.Text }

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Text: fmt.Sprintf(format, args...)}
}
