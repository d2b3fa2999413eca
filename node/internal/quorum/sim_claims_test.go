package quorum

import (
	"math/bits"
	"slices"
)

// facts are what has happened, seen from above: what no process knows as a whole.
type facts struct {
	signed     int32 // the largest tree that the log's holder has signed
	signatures []signature
	notes      []Signed // that have left a process
	acked      int32    // the largest tree that was acknowledged
	satisfied  int32    // the largest tree that has satisfied the policy
	stolen     []theft
}

type signature struct {
	at, size int64
}

// theft is a tree that a thief has signed, with the cosignatures that it got.
type theft struct {
	signed Signed
	lines  uint64
}

func (f *facts) published(s Signed) {
	if n := len(f.notes); n == 0 || f.notes[n-1].Tree != s.Tree {
		f.notes = append(f.notes, s)
	}
}

// sign is the log's key at work in the hands of its holder.
func (w *world) sign(s *start, t Tree, at int64) Signed {
	b, f := w.history.block(t), &w.facts
	if w.mutation.lateTime {
		at = w.now
	}
	if !w.history.grew(f.signed, b) && !w.history.grew(b, f.signed) {
		w.breaks("no two histories are signed", "p%d signs %v beside %v", s.id, t, w.history.tree(f.signed))
	}
	for _, other := range f.signatures {
		if other.at < at && other.size > t.Size || other.at > at && other.size < t.Size {
			w.breaks("time and size grow together", "p%d signs size %d for time %d, and there is size %d for %d", s.id, t.Size, at, other.size, other.at)
		}
	}
	if b == f.signed && len(f.signatures) > 0 {
		w.reach(signedAgain)
	}
	f.signatures = append(f.signatures, signature{at, t.Size})
	if w.history[b].size > w.history[f.signed].size {
		for c := b; c != 0; c = w.history[c].parent {
			if w.history.has(w.history[c].parent, 0, w.history[c].image) {
				w.breaks("no duplicates", "p%d signs %v with image %d twice", s.id, t, w.history[c].image)
			}
		}
		f.signed = b
	}
	w.restorable(true)
	n := len(f.signatures)
	return Signed{t, []byte{s.keys, byte(n), byte(n >> 8)}}
}

// restorable checks that what was signed and acknowledged can be restored from each
// set of members that is enough: I1, I3 and I4 as one claim about the disks.
func (w *world) restorable(all bool) {
	var intact [32]*disk
	n := 0
	for _, d := range w.disks {
		if !d.outside && !d.lost && n < len(intact) {
			intact[n], n = d, n+1
		}
	}
	if all && n <= 5 {
		for set := 1; set < 1<<n; set++ {
			w.restorableFrom(intact[:n], set)
		}
		return
	}
	tries := 2
	if all {
		tries = 32
	}
	for range tries {
		w.restorableFrom(intact[:n], w.n(1<<n))
	}
}

func (w *world) restorableFrom(intact []*disk, set int) {
	var buf [8]Answer
	answers := buf[:0]
	var proven int64
	for i, d := range intact {
		if set>>i&1 == 1 {
			answers = append(answers, Answer{d.member.Name, &d.state})
			proven = max(proven, d.state.Proven.Tree.Size)
		}
	}
	best, ok := Choose(answers, w.founding)
	if !ok {
		return
	}
	b := w.history.block(best.Tree)
	if !w.history.grew(w.facts.signed, b) {
		w.breaks("what was signed can be restored", "members %s restore %v, and %v was signed", names(answers), best.Tree, w.history.tree(w.facts.signed))
	}
	if acked := int64(w.history[w.facts.acked].size); proven < acked {
		w.breaks("what was acknowledged can be proven", "members %s have proof up to size %d, and size %d was acknowledged", names(answers), proven, acked)
	}
}

func names(answers []Answer) (s string) {
	for _, a := range answers {
		s += a.Name + " "
	}
	return s
}

// cosign is a cosigner's key at work, after its record is durable.
func (w *world) cosign(d *disk) {
	b := w.history.block(d.state.Cosigned().Tree)
	if !w.history.grew(d.cosigned, b) {
		w.breaks("no key cosigns two histories", "%s cosigns %v after %v", d.member.Name, w.history.tree(b), w.history.tree(d.cosigned))
	}
	if d.state.Role == Mirror && !d.entries.has(b) {
		w.breaks("a mirror has what it cosigns", "%s cosigns %v without its entries", d.member.Name, w.history.tree(b))
	}
	d.cosigned = b
}

// satisfied is the policy: W mirrors of each list, and some outsiders. Each cosigner
// has two lines, of Ed25519 and of ML-DSA-44.
func (w *world) satisfied(c Config, lines uint64) bool {
	lists := []*List{&c.List, c.Next}
	for _, l := range lists {
		if l == nil {
			continue
		}
		n := 0
		for _, d := range w.disks {
			if !d.outside && slices.Contains(l.Members, d.member) {
				n += w.count(lines >> (2 * d.id) & 3)
			}
		}
		if n < l.W.K && len(l.W.Groups) == 0 {
			return false
		}
		if len(l.W.Groups) > 0 && !l.W.Satisfied(func(name string) bool { return w.signed(name, lines) }) {
			return false
		}
	}
	n := 0
	for _, d := range w.disks {
		if d.outside {
			n += w.count(lines >> (2 * d.id) & 3)
		}
	}
	return n >= w.plan.outsideK
}

// signed tells whether a member of that name has signed.
func (w *world) signed(name string, lines uint64) bool {
	for _, d := range w.disks {
		if d.member.Name == name {
			return lines>>(2*d.id)&3 != 0
		}
	}
	return false
}

// count is how often a cosigner with these lines counts.
func (w *world) count(lines uint64) int {
	if w.mutation.countLines {
		return bits.OnesCount64(lines)
	}
	return min(int(lines), 1)
}

// satisfy notes that a reader would believe a tree, also one of a thief. Thieves are
// met only by policies whose quorums share more members than are bad.
func (w *world) satisfy(b int32) {
	f := &w.facts
	if !w.history.grew(f.satisfied, b) && !w.history.grew(b, f.satisfied) {
		w.breaks("one history satisfies the policy", "%v does, and %v did", w.history.tree(b), w.history.tree(f.satisfied))
	}
	if w.history[b].size > w.history[f.satisfied].size {
		f.satisfied = b
	}
}

func (w *world) acked(b int32) {
	w.log("acknowledged %v", w.history.tree(b))
	w.reach(acknowledgement)
	if w.history[b].size > w.history[w.facts.acked].size {
		w.facts.acked = b
	}
	w.founding = nil
	w.restorable(true)
}

// alarm is a publisher that stops for good. Without a thief nobody may be accused.
func (w *world) alarm(s *start) {
	w.reach(foundMisuse)
	if !w.plan.theft {
		w.breaks("no honest publisher is accused", "p%d stops with %s: %s", s.id, s.p.phase, s.p.reason)
	}
}
