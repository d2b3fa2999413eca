package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Verdict is what a policy says of a signed checkpoint.
type Verdict struct {
	// Satisfied is whether the log signed it and the quorum cosigned it.
	Satisfied bool
	// Missing says in a sentence what is missing; empty if Satisfied.
	Missing string
	// Checkpoint is what the text says. Nothing of it may be used unless Satisfied, and its Extension not even
	// then: ML-DSA-44 does not sign it.
	Checkpoint torchwood.Checkpoint
	// Counted are the witnesses of the quorum that cosigned it, in the order of the policy.
	Counted []Counted
	// Ignored are names of keys under which there is a line that does not verify. Anyone can add one.
	Ignored []string
	// Durable is how many of the publisher's own members cosigned, of Members.
	Durable, Members int
	// Independent is how many administrations other than the publisher's are behind it: Policy.Independent if
	// Satisfied, else 0.
	Independent int
}

// Counted is a witness whose cosignature counts.
type Counted struct {
	Name string // in the policy
	Key  *cosign.Key
	Time time.Time // when it cosigned, by its clock; zero if it does not say
}

// String is the two numbers that are shown everywhere.
func (v *Verdict) String() string {
	return fmt.Sprintf("durable %d/%d, independent administrations %d", v.Durable, v.Members, v.Independent)
}

// errNoLogs is returned where only the caller can know the log.
var errNoLogs = errors.New("the policy has no log line: say which log signs, or add 'log VKEY' to it")

// Check judges a signed checkpoint by the text alone: one of its log lines says who must have signed.
func (p *Policy) Check(signed []byte) (*Verdict, error) {
	if len(p.logs) == 0 {
		return nil, errNoLogs
	}
	return p.CheckOf(listed{p}, signed)
}

// CheckOf judges a signed checkpoint of a log that is known otherwise, such as a ledger.Verifier: log says who
// must have signed, and the policy's log lines are not read (see IsFor).
func (p *Policy) CheckOf(log torchwood.Policy, signed []byte) (*Verdict, error) {
	n, err := cosign.Open(signed, keys{p, log})
	if err != nil {
		return nil, err
	}
	v := &Verdict{}
	if v.Checkpoint, err = cosign.ParseCheckpoint(n.Text); err != nil {
		return nil, err
	}
	for _, k := range n.Broken {
		v.Ignored = append(v.Ignored, k.Name())
	}
	has := func(w *part) bool { return lineOf(n.Lines, w) != nil }
	for _, w := range p.quorum.witnesses() {
		if l := lineOf(n.Lines, w); l != nil {
			v.Counted = append(v.Counted, Counted{w.name, w.key, l.Time()})
		}
	}
	if own := p.named(Durability); own != nil {
		v.Members = len(own.parts())
		v.Durable = own.count(has)
	}
	var missing []string
	if err := log.Check(v.Checkpoint.Origin, signatures(n.Lines)); err != nil {
		missing = append(missing, fmt.Sprintf("the log's signature is missing: %v", err))
	}
	if p.quorum != nil && !p.quorum.satisfied(has) {
		missing = append(missing, "cosignatures are missing: "+p.lacks(p.quorum, has))
	}
	v.Missing, v.Satisfied = strings.Join(missing, "; "), len(missing) == 0
	if v.Satisfied {
		v.Independent = p.Independent()
	}
	return v, nil
}

// lineOf is the line by which a witness cosigned; nil if it did not.
func lineOf(lines []cosign.Line, w *part) *cosign.Line {
	i := slices.IndexFunc(lines, func(l cosign.Line) bool { return l.Key == note.Verifier(w.key) })
	if i < 0 {
		return nil
	}
	return &lines[i]
}

// Keep is a signed checkpoint with those of its lines alone that verify under the log's keys and the policy's.
// Where there are more than a verifier must accept, those that satisfy the policy stay.
func (p *Policy) Keep(log torchwood.Policy, signed []byte) ([]byte, error) {
	n, err := cosign.Open(signed, keys{p, log})
	if err != nil {
		return nil, err
	}
	if len(n.Lines) == 0 {
		return nil, errors.New("no line verifies under a key of the log or the policy")
	}
	var enough []*part
	if p.quorum != nil {
		enough = p.quorum.smallest(func(w *part) bool { return lineOf(n.Lines, w) != nil })
	}
	rank := func(l cosign.Line) int {
		if _, err := log.Verifier(l.Key.Name(), l.Key.KeyHash()); err == nil {
			return 0
		}
		if slices.ContainsFunc(enough, func(w *part) bool { return l.Key == note.Verifier(w.key) }) {
			return 1
		}
		return 2
	}
	slices.SortStableFunc(n.Lines, func(a, b cosign.Line) int { return rank(a) - rank(b) })
	if enough != nil {
		n.Lines = n.Lines[:min(len(n.Lines), cosign.MaxSignatures)]
	}
	return n.Marshal(), nil
}

// satisfied tells whether enough of a part's witnesses cosigned.
func (p *part) satisfied(has func(*part) bool) bool {
	if p.isWitness() {
		return has(p)
	}
	return p.count(has) >= p.need
}

// count is how many of a group's members, or whether a witness, cosigned.
func (p *part) count(has func(*part) bool) (n int) {
	for _, m := range p.parts() {
		if m.satisfied(has) {
			n++
		}
	}
	return n
}

// smallest are as few as there are of the witnesses that has names which satisfy the part; nil if they do not.
func (p *part) smallest(has func(*part) bool) []*part {
	if p.isWitness() {
		if has(p) {
			return []*part{p}
		}
		return nil
	}
	var each [][]*part
	for _, m := range p.members {
		if s := m.smallest(has); s != nil {
			each = append(each, s)
		}
	}
	if len(each) < p.need {
		return nil
	}
	slices.SortStableFunc(each, func(a, b []*part) int { return len(a) - len(b) })
	return slices.Concat(each[:p.need]...)
}

// lacks says what a part lacks. The keys of one cosigner are not told apart.
func (p *Policy) lacks(m *part, has func(*part) bool) string {
	if m.isWitness() || p.isCosigner(m) {
		return m.name
	}
	var lacking []string
	for _, c := range m.members {
		if !c.satisfied(has) {
			lacking = append(lacking, p.lacks(c, has))
		}
	}
	return fmt.Sprintf("%s (has %d of the %d it needs, lacks %s)", m.name, m.count(has), m.need, strings.Join(lacking, ", "))
}

// keys are those under which lines of a checkpoint are verified. A key of the log is no witness.
type keys struct {
	*Policy
	log torchwood.Policy
}

// Verifier implements note.Verifiers.
func (k keys) Verifier(name string, hash uint32) (note.Verifier, error) {
	if v, err := k.log.Verifier(name, hash); err == nil {
		return v, nil
	}
	for _, w := range k.parts {
		if w.isWitness() && w.key.Name() == name && w.key.KeyHash() == hash {
			return w.key, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// listed are the logs of a policy's lines, each of which may sign checkpoints of the origin that is its name.
type listed struct{ *Policy }

// Verifier implements torchwood.Policy.
func (l listed) Verifier(name string, hash uint32) (note.Verifier, error) {
	for _, k := range l.logs {
		if k.key.Name() == name && k.key.KeyHash() == hash {
			return k.key, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// Check implements torchwood.Policy.
func (l listed) Check(origin string, sigs []note.Signature) error {
	for _, s := range sigs {
		if _, err := l.Verifier(s.Name, s.Hash); err == nil && s.Name == origin {
			return nil
		}
	}
	return fmt.Errorf("no log of the policy with the origin %.80q signed it", origin)
}

func signatures(lines []cosign.Line) (out []note.Signature) {
	for _, l := range lines {
		fields := strings.Fields(l.String())
		out = append(out, note.Signature{Name: l.Key.Name(), Hash: l.Key.KeyHash(), Base64: fields[2]})
	}
	return out
}
