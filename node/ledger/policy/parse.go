package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Bounds of a policy. The specification recommends to support at least 32 of each.
const (
	// MaxText bounds the text: 96 keys of ML-DSA-44 with names and URLs have less.
	MaxText      = 256 << 10
	maxLogs      = 32
	maxWitnesses = 64
	maxGroups    = 64
	maxName      = 255
	maxURL       = 1 << 10
)

// none is the quorum of a policy that asks for no cosignature.
const none = "none"

// Parse reads a policy. It is strict: what another reader may take otherwise is refused, and the error says
// in which line.
func Parse(text []byte) (*Policy, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("policy of %d bytes: at most %d", len(text), MaxText)
	}
	r := &reader{Policy: &Policy{}, names: map[string]*part{}, later: map[string]int{}}
	var lines [][]string
	for number := 1; len(text) > 0; number++ {
		line, rest, ended := bytes.Cut(text, []byte("\n"))
		if err := checkBytes(line); err != nil {
			return nil, fmt.Errorf("policy, line %d: %w", number, err)
		}
		if !ended {
			return nil, fmt.Errorf("policy, line %d: it does not end with a newline: the text may be cut off; add the newline if it is complete", number)
		}
		words := strings.FieldsFunc(string(line), func(c rune) bool { return c == ' ' || c == '\t' })
		if len(words) > 0 && strings.HasPrefix(words[0], "#") {
			words = nil
		}
		if len(words) > 1 && (words[0] == "witness" || words[0] == "group") {
			r.later[words[1]] = number
		}
		lines, text = append(lines, words), rest
	}
	for i, words := range lines {
		if len(words) == 0 {
			continue
		}
		if err := r.line(words); err != nil {
			return nil, fmt.Errorf("policy, line %d: %w", i+1, err)
		}
	}
	if !r.hasQuorum {
		return nil, errors.New("policy: no quorum: end it with a line 'quorum NAME', of a witness or group, or 'quorum none'")
	}
	return r.done()
}

// checkBytes refuses control characters (c2sp.org/tlog-policy, Character set).
func checkBytes(line []byte) error {
	for i, c := range line {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return fmt.Errorf("byte %d is the control character %#02x: lines end with a newline alone, and words are parted by spaces and tabs", i+1, c)
		}
	}
	return nil
}

// reader is a policy of which some lines are read.
type reader struct {
	*Policy
	names     map[string]*part
	later     map[string]int // names, and the line that defines them last
	groups    int
	hasQuorum bool
}

func (r *reader) line(words []string) error {
	switch word, args := words[0], words[1:]; word {
	case "log":
		return r.log(args)
	case "witness":
		return r.witness(args)
	case "group":
		return r.group(args)
	case "quorum":
		return r.setQuorum(args)
	default:
		return fmt.Errorf("it begins with %.40q: want log, witness, group or quorum", word)
	}
}

func (r *reader) log(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("want 'log VKEY' or 'log VKEY URL'")
	}
	key, err := cosign.ParseKey(args[0])
	if err != nil {
		return err
	}
	for _, l := range r.logs {
		if l.key.SamePublicKey(key) {
			return fmt.Errorf("the key of %s has a log line before", key.Short())
		}
	}
	if len(r.logs) == maxLogs {
		return fmt.Errorf("more than %d logs", maxLogs)
	}
	url, err := optionalURL(args[1:])
	r.logs = append(r.logs, logKey{key, url})
	return err
}

func (r *reader) witness(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return errors.New("want 'witness NAME VKEY' or 'witness NAME VKEY URL'")
	}
	key, err := cosign.ParseKey(args[1])
	if err != nil {
		return err
	}
	if key.Algorithm() == cosign.Plain {
		return fmt.Errorf("%s is the key of a log (type 0x01): a witness has one of type 0x04 or 0x06", key.Short())
	}
	n := 1
	for _, p := range r.parts {
		if !p.isWitness() {
			continue
		}
		if n++; p.key.SamePublicKey(key) {
			return fmt.Errorf("its key is that of the witness %q: each key counts once", p.name)
		}
	}
	if n > maxWitnesses {
		return fmt.Errorf("more than %d witnesses", maxWitnesses)
	}
	url, err := optionalURL(args[2:])
	if err != nil {
		return err
	}
	return r.define(&part{name: args[0], key: key, url: url})
}

func optionalURL(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	if len(args[0]) > maxURL {
		return "", fmt.Errorf("a URL of %d bytes: at most %d", len(args[0]), maxURL)
	}
	return args[0], nil
}

func (r *reader) group(args []string) error {
	if len(args) < 3 {
		return errors.New("want 'group NAME all|any|K MEMBER...', with at least one member")
	}
	g := &part{name: args[0]}
	names := args[2:]
	switch args[1] {
	case "any":
		g.need = 1
	case "all":
		g.need = len(names)
	default:
		k, err := strconv.Atoi(args[1])
		if err != nil || strconv.Itoa(k) != args[1] || k < 1 || k > len(names) {
			return fmt.Errorf("%.40q of %d members: want all, any, or a number from 1 to %[2]d", args[1], len(names))
		}
		g.need = k
	}
	for _, name := range names {
		m, err := r.lookUp(name)
		if err != nil {
			return err
		}
		if m.in != "" {
			return fmt.Errorf("%q is a member of the group %q before: a name may be listed once, so that it counts once", name, m.in)
		}
		m.in = g.name
		g.members = append(g.members, m)
	}
	if r.groups++; r.groups > maxGroups {
		return fmt.Errorf("more than %d groups", maxGroups)
	}
	return r.define(g)
}

// lookUp is what a name means on this line.
func (r *reader) lookUp(name string) (*part, error) {
	if name == none {
		return nil, errors.New("'none' can only be the quorum, not a member of a group")
	}
	if p, ok := r.names[name]; ok {
		return p, nil
	}
	if line, ok := r.later[name]; ok {
		return nil, fmt.Errorf("%.80q is defined in line %d: a name must be defined before the line that uses it", name, line)
	}
	return nil, fmt.Errorf("there is no witness or group %.80q", name)
}

func (r *reader) define(p *part) error {
	switch {
	case p.name == none:
		return errors.New("the name 'none' is taken: it means a quorum without cosignatures")
	case len(p.name) > maxName:
		return fmt.Errorf("a name of %d bytes: at most %d", len(p.name), maxName)
	case r.names[p.name] != nil:
		return fmt.Errorf("%q is defined before: witnesses and groups need different names", p.name)
	}
	r.names[p.name] = p
	r.parts = append(r.parts, p)
	return nil
}

func (r *reader) setQuorum(args []string) error {
	if len(args) != 1 {
		return errors.New("want 'quorum NAME', of one witness or group, or 'quorum none'")
	}
	if r.hasQuorum {
		return errors.New("there is a quorum line before: a policy has exactly one")
	}
	r.hasQuorum = true
	if args[0] == none {
		return nil
	}
	q, err := r.lookUp(args[0])
	if err != nil {
		return err
	}
	// One line is the log's own.
	if n := q.fewest(); n > cosign.MaxSignatures-1 {
		return fmt.Errorf("the quorum %q can never be reached: it takes %d cosignatures, and a checkpoint carries %d", q.name, n, cosign.MaxSignatures-1)
	}
	r.quorum = q
	return nil
}

// done looks at the policy as a whole.
func (r *reader) done() (*Policy, error) {
	for _, p := range r.parts {
		for _, l := range r.logs {
			if p.isWitness() && p.key.SamePublicKey(l.key) {
				return nil, fmt.Errorf("policy: the witness %q has the key of the log %s: a log is no witness of itself", p.name, l.key.Short())
			}
		}
	}
	r.countUses()
	return r.Policy, nil
}
