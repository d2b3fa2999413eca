package replica

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// forkedError is ErrForked, with what proves it to others.
type forkedError struct {
	message string
	head    ledger.Checkpoint
	proof   ledger.Evidence // its Root and Proof alone
}

func (e *forkedError) Error() string { return e.message }

func (e *forkedError) Unwrap() error { return ErrForked }

// newForkedError says that two ledgers contradict each other at so many blocks, and proves it by the hashes of
// the larger one. Without the proof, which a source may refuse to complete, a fork is one all the same.
func newForkedError(head, c ledger.Checkpoint, size int64, verified, received tlog.Hash, larger tlog.Tree, hashes tlog.HashReader) error {
	e := &forkedError{head: head}
	e.message = fmt.Sprintf("%v: at %d blocks, root %s was verified and the new checkpoint of %d blocks has root %s", ErrForked, size, verified, c.Tree.N, received)
	if size > 0 && head.Tree.N != c.Tree.N {
		if err := e.proof.ProveFork(size, larger, hashes); err != nil {
			e.message += fmt.Sprintf(" (%v)", err)
		}
	}
	return e
}
