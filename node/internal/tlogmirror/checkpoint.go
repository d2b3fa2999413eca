package tlogmirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
	"github.com/pyrsia/pyrsia-operator/node/ledger/subtree"
)

// serveAddCheckpoint is add-checkpoint (c2sp.org/tlog-witness).
func (c *Cosigner) serveAddCheckpoint(w http.ResponseWriter, r *http.Request) {
	c.serveLines(w, r, func(body string) (string, error) {
		req, err := parseCheckpointRequest(body)
		if err != nil {
			return "", &httpError{http.StatusBadRequest, err.Error()}
		}
		m, err := c.memberOf(req.checkpoint)
		if err != nil {
			return "", err
		}
		signed, err := m.log.verify(req.checkpoint)
		if err != nil {
			return "", err
		}
		return m.addCheckpoint(req.old, req.proof, signed)
	})
}

// serveLines answers a small request with signature lines.
func (c *Cosigner) serveLines(w http.ResponseWriter, r *http.Request, answer func(body string) (lines string, err error)) {
	body, err := readBody(w, r)
	if err != nil {
		c.fail(w, err)
		return
	}
	lines, err := answer(body)
	if err != nil {
		c.fail(w, err)
		return
	}
	writeLines(w, lines)
}

// addCheckpoint makes a checkpoint the pending one. A witness returns its cosignatures
// of it; a mirror does not sign what it does not hold yet, and returns none.
func (m *Member) addCheckpoint(old int64, proof quorum.Proof, signed quorum.Signed) (lines string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Asked for again, which is how a log gets a newer time: everybody can, and it costs
	// no record.
	again := bytes.Equal(signed.Note, m.state.Pending.Note) && old == signed.Tree.Size && len(proof) == 0
	if !again {
		if err := m.change(func(s quorum.State) (quorum.State, error) {
			next, _, err := s.AddCheckpoint(quorum.AddCheckpoint{Old: old, Signed: signed, Proof: proof})
			return next, err
		}); err != nil {
			return "", err
		}
	}
	if m.cosigner.options.Role == quorum.Mirror {
		return "", nil
	}
	if again {
		if err := m.renew(); err != nil {
			return "", err
		}
	}
	return m.lines()
}

// serveSignSubtree is sign-subtree (c2sp.org/tlog-witness).
func (c *Cosigner) serveSignSubtree(w http.ResponseWriter, r *http.Request) {
	c.serveLines(w, r, func(body string) (string, error) {
		req, err := parseSubtreeRequest(body)
		if err != nil {
			return "", &httpError{http.StatusBadRequest, err.Error()}
		}
		m, err := c.memberOf(req.checkpoint)
		if err != nil {
			return "", err
		}
		return m.signSubtree(req)
	})
}

// signSubtree cosigns a subtree of a tree that these keys have cosigned.
func (m *Member) signSubtree(req subtreeRequest) (line string, err error) {
	keys := m.cosigner.keys
	n, err := note.Open([]byte(req.checkpoint), keys.verifiers())
	if err != nil {
		return "", refuseNote(err, "no cosignature of this cosigner's keys: want a checkpoint that they have cosigned")
	}
	tree, err := cosign.ParseCheckpoint(n.Text)
	if err != nil {
		return "", &httpError{http.StatusBadRequest, err.Error()}
	}
	if _, _, err := m.State().SignSubtree(quorum.SignSubtree{
		Start: req.part.Start, End: req.part.End, Checkpoint: quorum.Tree{Size: tree.N, Root: tree.Hash},
	}); err != nil {
		return "", err
	}
	if err := subtree.CheckConsistency(req.proof, req.part, req.hash, tree.Tree); err != nil {
		return "", &httpError{http.StatusUnprocessableEntity, err.Error()}
	}
	for _, s := range keys.signers {
		if s.Key().Algorithm() == cosign.MLDSA44 { // the only one that can
			return s.CosignSubtree(cosign.Subtree{Origin: m.log.Origin, Start: req.part.Start, End: req.part.End, Hash: req.hash})
		}
	}
	return "", errors.New("this cosigner has no ML-DSA-44 key, which alone signs subtrees")
}

// readBody reads the body of a small request.
func readBody(w http.ResponseWriter, r *http.Request) (string, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return "", &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", maxRequest)}
	}
	if err != nil {
		return "", &httpError{http.StatusBadRequest, "the body did not arrive"}
	}
	return string(body), nil
}

// memberOf finds the log that a checkpoint is of, by its first line.
func (c *Cosigner) memberOf(checkpoint string) (*Member, error) {
	origin, _, _ := strings.Cut(checkpoint, "\n")
	m := c.member(OriginHash(origin))
	if m == nil {
		return nil, &httpError{http.StatusNotFound, fmt.Sprintf("the log %.80q is not cosigned here", origin)}
	}
	return m, nil
}

// verify verifies that the log signed a checkpoint. Of its signature lines only those of
// the log's keys are kept: everybody can add others.
func (l Log) verify(checkpoint string) (quorum.Signed, error) {
	_, n, err := torchwood.VerifyCheckpoint([]byte(checkpoint), l.Keys)
	if err != nil {
		return quorum.Signed{}, refuseNote(err, "no signature of a key of the log that is known here")
	}
	c, err := cosign.ParseCheckpoint(n.Text)
	if err != nil {
		return quorum.Signed{}, &httpError{http.StatusBadRequest, err.Error()}
	}
	if c.Origin != l.Origin {
		return quorum.Signed{}, &httpError{http.StatusNotFound, fmt.Sprintf("the checkpoint is of the log %.80q", c.Origin)}
	}
	kept, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
	if err != nil {
		return quorum.Signed{}, fmt.Errorf("keeping a checkpoint: %w", err)
	}
	if len(kept) > maxKept {
		return quorum.Signed{}, &httpError{http.StatusBadRequest, fmt.Sprintf("a checkpoint of %d bytes with the log's signatures alone: at most %d", len(kept), maxKept)}
	}
	return quorum.Signed{Tree: quorum.Tree{Size: c.N, Root: c.Hash}, Note: kept}, nil
}

// maxKept bounds a checkpoint with the log's own signatures in bytes: it has to fit in
// a ticket, and leave space for cosignatures in a note.
const maxKept = 40 << 10

// refuseNote is 403 for a note without a signature that counts, and 400 for one that is
// malformed.
func refuseNote(err error, unsigned string) error {
	_, nobody := errors.AsType[*note.UnverifiedNoteError](err)
	if bad, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		return &httpError{http.StatusForbidden, fmt.Sprintf("the signature line of the key %.80s+%08x does not verify", bad.Name, bad.Hash)}
	}
	if nobody {
		return &httpError{http.StatusForbidden, "the checkpoint has " + unsigned}
	}
	return &httpError{http.StatusBadRequest, fmt.Sprintf("checkpoint: %v", err)}
}
