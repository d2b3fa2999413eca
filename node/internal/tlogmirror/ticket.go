package tlogmirror

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// ticket gives a client what this process forgets: a checkpoint that was pending. It
// goes into a request's ticket as it is, after a code that nobody else can make; tickets
// of an earlier process are void, and their uploads begin with the pending checkpoint.
func (c *Cosigner) ticket(s quorum.Signed) []byte {
	return slices.Concat(c.ticketCode(s.Note), s.Note)
}

// ticketCode authenticates a checkpoint, which names its origin.
func (c *Cosigner) ticketCode(checkpoint []byte) []byte {
	h := hmac.New(sha256.New, c.tickets[:])
	h.Write(checkpoint)
	return h.Sum(nil)
}

// openTicket reads a ticket of a log.
func (c *Cosigner) openTicket(origin string, ticket []byte) (s quorum.Signed, ok bool) {
	if len(ticket) < sha256.Size {
		return s, false
	}
	code, checkpoint := ticket[:sha256.Size], ticket[sha256.Size:]
	if !hmac.Equal(code, c.ticketCode(checkpoint)) {
		return s, false
	}
	text, _, _ := bytes.Cut(checkpoint, []byte("\n\n"))
	tree, err := cosign.ParseCheckpoint(string(text) + "\n")
	if err != nil || tree.Origin != origin {
		return s, false
	}
	return quorum.Signed{Tree: quorum.Tree{Size: tree.N, Root: tree.Hash}, Note: bytes.Clone(checkpoint)}, true
}
