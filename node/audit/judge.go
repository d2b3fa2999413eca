package audit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// use is an Image as it was read.
type use struct {
	Image
	name     *ledger.Reference // nil: none
	digest   digest.Digest     // that runs, or that the spec pins; empty: the tag is all that is known
	observed bool
	pinned   bool   // the spec has a digest
	question string // empty: there is nothing to ask
	problem  string
}

// read finds out which name and digest an Image has.
func read(image Image) use {
	u := use{Image: image}
	name, pinned, _ := strings.Cut(image.Name, "@")
	switch ref, err := ledger.ParseReference(image.Name); {
	case image.Name == "":
	case err != nil:
		u.problem = err.Error()
		return u
	case ref.Whole() && !ref.Named():
		u.digest, u.pinned, name = ref.Digest(), true, ""
	default:
		if u.name, u.pinned = ref, pinned != ""; u.pinned {
			u.digest = ref.Digest()
		}
		if !u.pinned && !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
			name += ":latest"
		}
	}
	if image.ID != "" {
		ref, err := ledger.ParseReference(image.ID)
		if err != nil || !ref.Whole() {
			u.problem = fmt.Sprintf("the runtime names it %.80q, which has no digest", image.ID)
			return u
		}
		u.digest, u.observed = ref.Digest(), true
		if u.name == nil && ref.Named() {
			u.name, name = ref, strings.SplitN(image.ID, "@", 2)[0]
		}
	}
	switch {
	case u.digest == "":
		u.question = name
	case u.name == nil:
		u.question = u.digest.String()
	default:
		u.question = name + "@" + u.digest.String()
	}
	// One question that the node cannot read would cost the answers to all others.
	if ref, err := ledger.ParseReference(u.question); err != nil || ref.Digits != "" && !ref.Whole() {
		u.problem, u.question = fmt.Sprintf("%.80q is no image's name with a whole digest", image.Name), ""
	}
	return u
}

// ours tells whether a mirror is for the image's registry.
func (a *Audit) ours(u *use) bool {
	if u.name == nil || slices.Contains(a.Registries, "_default") {
		return true
	}
	return slices.ContainsFunc(u.name.Names, func(n ledger.Image) bool { return slices.Contains(a.Registries, n.Registry) })
}

func (a *Audit) judge(u *use, answer ledger.AnswerJSON) (Finding, error) {
	f := Finding{Image: u.Name, Digest: u.digest, Observed: u.observed, Verdict: Unknown, Note: u.problem}
	if f.Image == "" {
		f.Image = u.ID
	}
	if u.problem != "" {
		return f, nil
	}
	block := answer.Block
	if u.digest == "" {
		block = answer.Tag
	}
	newest, err := entryOf(answer.Tag)
	if err != nil {
		return f, err
	}
	entry, err := entryOf(block)
	if err != nil {
		return f, err
	}
	if entry == nil {
		a.judgeAbsent(u, &f, answer, newest)
		return f, nil
	}
	if u.digest == "" {
		f.Digest = entry.Digest
	}
	if !entry.Names(f.Digest) {
		return f, errors.New("a block that does not name the digest")
	}
	f.Block, f.As, f.Recorded, f.Matched = &block.Height, entry.Name(), &entry.Time, matched(entry, f.Digest)
	var notes []string
	switch f.Matched {
	case "":
		f.Note = fmt.Sprintf("block %d names this digest, and not as an image", block.Height)
		return f, nil
	case "config":
		notes = append(notes, "by its config alone: its layers are not proven")
	}
	f.Verdict = Vouched
	if why := entry.Exception(); why != "" {
		notes = append(notes, why)
	}
	if newest != nil && block != answer.Tag && !newest.Names(f.Digest) {
		at := newest.Time
		f.Newer, f.Since = newest.Digest, &at
		if u.pinned {
			notes = append(notes, "the tag has moved on, and the spec names the digest")
		} else {
			f.Verdict = Moved
		}
		if answer.Tag.RevokedBy != nil {
			notes = append(notes, fmt.Sprintf("the tag's newer digest is withdrawn by block %d", *answer.Tag.RevokedBy))
		}
	}
	if u.name != nil && !slices.ContainsFunc(u.name.Names, func(n ledger.Image) bool { return n.Name() == entry.Repository() }) {
		f.Verdict = Renamed
	}
	if note := withdrawn(block, entry, f.Digest); note != "" {
		f.Verdict, notes = Withdrawn, append([]string{note}, notes...)
	}
	if !u.observed {
		notes = append(notes, "not observed")
	}
	f.Note = strings.Join(notes, "; ")
	return f, nil
}

// judgeAbsent judges what no block names.
func (a *Audit) judgeAbsent(u *use, f *Finding, answer ledger.AnswerJSON, newest *ledger.AddArtifact) {
	switch {
	case !a.ours(u):
		f.Verdict, f.Note = Foreign, "no mirror is for its registry"
	case newest != nil:
		at := newest.Time
		f.Newer, f.Since, f.Note = newest.Digest, &at, "its tag is on the ledger, with another digest"
	case answer.Repository && u.digest == "":
		f.Note = "its repository is on the ledger, without this tag"
	case answer.Repository:
		f.Note = "its repository is on the ledger, without this digest"
	case u.name == nil:
		f.Note = "no block names this digest"
	default:
		f.Note = "nothing of its repository is on the ledger"
	}
}

func entryOf(b *ledger.BlockJSON) (*ledger.AddArtifact, error) {
	if b == nil {
		return nil, nil
	}
	return ledger.ParseEntry([]byte(b.Entry))
}

// matched is what of an artifact has a digest; empty: its piece list or an attestation.
func matched(a *ledger.AddArtifact, d digest.Digest) string {
	switch {
	case a.Digest == d && len(a.Platforms) > 0 && a.Platforms[0].Digest != d:
		return "index"
	case slices.ContainsFunc(a.Images(), func(p ledger.Platform) bool { return p.Digest == d }):
		return "platform"
	case slices.ContainsFunc(a.Images(), func(p ledger.Platform) bool { return p.Config == d }):
		return "config"
	}
	return ""
}

// withdrawn says by which block a digest is withdrawn; empty if it stands.
func withdrawn(b *ledger.BlockJSON, a *ledger.AddArtifact, d digest.Digest) string {
	for _, w := range b.Withdrawn {
		if w.Digest == a.Digest || w.Digest == d {
			return fmt.Sprintf("withdrawn by block %d: %s", w.By, w.Reason)
		}
		for _, p := range a.Platforms {
			if p.Digest == w.Digest && p.Config == d {
				return fmt.Sprintf("withdrawn by block %d: %s", w.By, w.Reason)
			}
			if p.Digest == w.Digest && a.Digest == d {
				return fmt.Sprintf("its platform %s is withdrawn by block %d: %s", p.Platform, w.By, w.Reason)
			}
		}
	}
	return ""
}

// Compare orders findings: by verdict, the gravest first, then by name.
func Compare(a, b Finding) int {
	return cmp.Or(slices.Index(Verdicts, a.Verdict)-slices.Index(Verdicts, b.Verdict),
		strings.Compare(a.Image, b.Image), strings.Compare(a.Digest.String(), b.Digest.String()))
}
