package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/bounded"
	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// MaxEvidenceFile bounds a file of evidence: two checkpoints, two hand-overs, a proof, and the keys of all who
// may have signed.
const MaxEvidenceFile = 1 << 20

const (
	// maxEvidenceValues bounds the values in its JSON.
	maxEvidenceValues = 1024
	// maxEvidenceKeys bounds the keys: each checkpoint is verified by all of them.
	maxEvidenceKeys = 256
)

// Judgement is what a file of evidence proves, to anyone and without asking anybody.
type Judgement struct {
	// Contradiction says what was signed that cannot be true together; empty if nothing was.
	Contradiction string
	// Convicted are the keys that signed both sides of a contradiction. Their holders misbehaved, or
	// somebody else has their keys: a holder that follows the rules never signs both.
	Convicted []*cosign.Key
	// Suspicion says what looks wrong, and what an honest holder may have done too; empty if Convicted.
	Suspicion string
	// Rotations are the hand-overs in the file, by which a convicted key may follow on another one.
	Rotations []Rotation
}

// Convict judges a file of evidence, as Evidence is written in JSON. Of what the file says it believes nothing
// but what a key signed. vkeys are keys to look for beside those that the file names.
//
// A key is convicted of signing two checkpoints of one log that contradict each other: with one size and two
// roots; or with two sizes, where a consistency proof shows that the larger tree begins with another tree than
// the smaller one; or with two proofs of different blocks at one height. The larger tree must be signed as it
// is: who makes the file chooses proofs and other keys, and cannot make a tree that an honest key signed begin
// in two ways.
//
// A smaller checkpoint that is signed at a later time is no contradiction: an honest publisher that was paused
// or cut off signs what it has. Nor are two checkpoints of two keys, of which one was handed over to the other:
// one of them was misused, and it cannot be told which. And a key that hands over twice may be its honest
// holder's, who changed his mind.
func Convict(file []byte, vkeys ...string) (*Judgement, error) {
	e, err := decodeEvidence(file)
	if err != nil {
		return nil, err
	}
	keys, err := e.signers(vkeys)
	if err != nil {
		return nil, err
	}
	statements, err := e.statements(keys)
	if err != nil {
		return nil, err
	}
	unsigned := func(s *statement) bool { return len(s.lines) == 0 }
	signed := slices.DeleteFunc(slices.Clone(statements), unsigned)
	j := &Judgement{Rotations: e.Rotations}
	for i, a := range signed {
		for _, b := range signed[i+1:] {
			contradiction := contradict(a, b, e)
			if contradiction == "" {
				continue
			}
			j.Contradiction = contradiction
			for _, k := range keys {
				if a.isBy(k) && b.isBy(k) && !slices.ContainsFunc(j.Convicted, k.SamePublicKey) {
					j.Convicted = append(j.Convicted, k)
				}
			}
			if len(j.Convicted) > 0 {
				return j, nil
			}
		}
	}
	switch {
	case j.Contradiction != "":
		j.Suspicion = "no key signed both: one was misused, and this does not show which"
	case len(signed) < len(statements):
		j.Suspicion = "a checkpoint in it is signed by none of the keys that are given: give the key by which it is to be judged"
	default:
		j.Suspicion = suspicion(signed, e)
	}
	return j, nil
}

func decodeEvidence(file []byte) (e Evidence, err error) {
	if len(file) > MaxEvidenceFile {
		return e, fmt.Errorf("evidence of %d bytes: at most %d", len(file), MaxEvidenceFile)
	}
	if err := bounded.Unmarshal(file, maxEvidenceValues, &e); err != nil {
		return e, fmt.Errorf("evidence: %w: want one object, as 'pyrsia evidence -o json' has it in its list and ledger/evidence as a file", err)
	}
	if e.Verified == "" && e.Received == "" && len(e.Rotations) == 0 {
		return e, errors.New("evidence: it has no signed checkpoint: want the fields verified and received")
	}
	return e, nil
}

// signers are the keys that may have signed: the named ones, and those that hand over and get the ledger.
func (e *Evidence) signers(more []string) (out []*cosign.Key, err error) {
	var twins []*cosign.Key
	named := slices.Concat(more, e.Keys)
	if e.Key != "" {
		named = append(named, e.Key)
	}
	for _, r := range e.Rotations {
		if b, err := ParseRotation([]byte(r.Entry)); err == nil {
			named = append(named, b.Previous, b.Key)
		}
	}
	if len(named) > maxEvidenceKeys {
		return nil, fmt.Errorf("evidence: more than %d keys", maxEvidenceKeys)
	}
	for _, vkey := range named {
		k, err := cosign.ParseKey(strings.TrimSpace(vkey))
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		if slices.ContainsFunc(out, func(o *cosign.Key) bool { return o.String() == k.String() }) {
			continue
		}
		out = append(out, k)
		if k.Algorithm() == cosign.Plain {
			twins = append(twins, k)
		}
	}
	// A log's key also signs with the time.
	for _, k := range twins {
		clock, err := k.WithTime()
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		if !slices.ContainsFunc(out, func(o *cosign.Key) bool { return o.String() == clock.String() }) {
			out = append(out, clock)
		}
	}
	return out, nil
}

// statement is one checkpoint in the evidence, with those of the keys that signed it.
type statement struct {
	origin string
	tree   tlog.Tree
	lines  []cosign.Line
	// Of a hand-over: the block whose inclusion was proven.
	height int64
	leaf   *tlog.Hash
}

// isBy tells whether a key signed it, in a role in which that means something: a plain signature is a log's
// only under the name of the log. What a key of another name signed without saying more is no checkpoint.
func (s *statement) isBy(k *cosign.Key) bool {
	if k.Algorithm() == cosign.Plain && k.Name() != s.origin {
		return false
	}
	return slices.ContainsFunc(s.lines, func(l cosign.Line) bool { return l.Key == note.Verifier(k) })
}

// time is the latest at which one of the keys says that it was signed; zero if none says.
func (s *statement) time() (newest time.Time) {
	for _, l := range s.lines {
		if t := l.Time(); t.After(newest) {
			newest = t
		}
	}
	return newest
}

// statements are the checkpoints in the evidence, the verified and the received one first.
func (e *Evidence) statements(keys []*cosign.Key) (out []*statement, err error) {
	for i, signed := range []string{e.Verified, e.Received} {
		if signed == "" {
			continue
		}
		s, err := readStatement([]byte(signed), keys)
		if err != nil {
			return nil, fmt.Errorf("evidence: %s: %w", [...]string{"verified", "received"}[i], err)
		}
		out = append(out, s)
	}
	for _, r := range e.Rotations {
		s, err := handOverStatement(r, keys)
		if err == nil { // else it proves nothing
			out = append(out, s)
		}
	}
	return out, nil
}

func handOverStatement(r Rotation, keys []*cosign.Key) (*statement, error) {
	b, err := ParseRotation([]byte(r.Entry))
	if err != nil {
		return nil, err
	}
	v, err := NewVerifier(b.Previous)
	if err != nil {
		return nil, err
	}
	block, err := VerifyInclusion(v, []byte(r.Entry), []byte(r.Proof))
	if err != nil {
		return nil, err
	}
	s, err := readStatement(block.Checkpoint.Signed, keys)
	if err != nil {
		return nil, err
	}
	s.height, s.leaf = block.Height, &block.Hash
	return s, nil
}

func readStatement(signed []byte, keys []*cosign.Key) (*statement, error) {
	verifiers := make([]note.Verifier, len(keys))
	for i, k := range keys {
		verifiers[i] = k
	}
	n, err := cosign.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return nil, err
	}
	c, err := cosign.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	return &statement{origin: c.Origin, tree: c.Tree, lines: n.Lines}, nil
}

// contradict says why two checkpoints cannot both be of one log that only grows; empty if they can.
func contradict(a, b *statement, e Evidence) string {
	if a.origin != b.origin {
		return ""
	}
	if a.tree.N > b.tree.N {
		a, b = b, a
	}
	switch {
	case a.tree.N == b.tree.N && a.tree.Hash != b.tree.Hash:
		return fmt.Sprintf("two ledgers of %d blocks, with the roots %s and %s", a.tree.N, a.tree.Hash, b.tree.Hash)
	case a.leaf != nil && b.leaf != nil && a.height == b.height && *a.leaf != *b.leaf:
		return fmt.Sprintf("two blocks %d, in ledgers of %d and %d blocks", a.height, a.tree.N, b.tree.N)
	case e.Root == "" || a.tree.N == 0 || a.tree.N == b.tree.N:
		return ""
	}
	// Whatever two trees the proof was made for: it fits no others.
	begins, err := e.provenRoot(a.tree.N, b.tree)
	if err != nil || begins == a.tree.Hash {
		return ""
	}
	return fmt.Sprintf("a ledger of %d blocks with the root %s, and one of %d blocks whose first %d have the root %s", a.tree.N, a.tree.Hash, b.tree.N, a.tree.N, begins)
}

// provenRoot is the root that the evidence proves the first n blocks of a tree to have.
func (e *Evidence) provenRoot(n int64, tree tlog.Tree) (root tlog.Hash, err error) {
	if root, err = tlog.ParseHash(e.Root); err != nil {
		return root, err
	}
	proof := make(tlog.TreeProof, len(e.Proof))
	for i, s := range e.Proof {
		if proof[i], err = tlog.ParseHash(s); err != nil {
			return root, err
		}
	}
	return root, tlog.CheckTree(proof, tree.N, tree.Hash, n, root)
}

// suspicion says what is to be thought of signed checkpoints that do not contradict each other.
func suspicion(signed []*statement, e Evidence) string {
	if len(signed) < 2 {
		return "one checkpoint contradicts nothing"
	}
	a, b := signed[0], signed[1]
	if a.tree.N > b.tree.N {
		a, b = b, a
	}
	switch {
	case a.origin != b.origin:
		return "the checkpoints are of two ledgers"
	case a.tree.N < b.tree.N && !b.time().IsZero() && a.time().After(b.time()):
		return fmt.Sprintf("%d blocks were signed at %s, after %d blocks at %s: by a publisher on an older disk, with a wrong clock, or cut off with what it had; that is no second history",
			a.tree.N, a.time().Format(time.RFC3339), b.tree.N, b.time().Format(time.RFC3339))
	case a.tree.N < b.tree.N && e.Root == "":
		return fmt.Sprintf("it does not show how the ledger of %d blocks begins, which may be that of %d", b.tree.N, a.tree.N)
	default:
		return "nothing in it contradicts anything else"
	}
}

// ProveFork adds what convicts the keys of a log whose larger tree does not begin with the smaller one: the
// root that it begins with, and the proof of that (RFC 6962, section 2.1.2) by the hashes of the larger tree.
func (e *Evidence) ProveFork(smaller int64, larger tlog.Tree, hashes tlog.HashReader) error {
	root, err := tlog.TreeHash(smaller, hashes)
	if err != nil {
		return fmt.Errorf("proving how the ledger of %d blocks begins: %w", larger.N, err)
	}
	proof, err := tlog.ProveTree(larger.N, smaller, hashes)
	if err != nil {
		return fmt.Errorf("proving how the ledger of %d blocks begins: %w", larger.N, err)
	}
	e.Root, e.Proof = root.String(), EncodeHashes(proof)
	return nil
}
