// Package criconfig decides from containerd's configuration whether its CRI
// plugin, through which the kubelet pulls, reads a certs.d and asks an image
// verifier, by the rules of its version and of its way of pulling. It imports
// only node/internal/durable; node/cli calls it.
package criconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Query asks about one certs.d of one containerd.
type Query struct {
	Machine
	File    string // its configuration, such as /etc/containerd/config.toml
	CertsD  string
	Version string // of containerd, in any of its notations; empty if unknown
}

// Report is the answer to a Query.
type Report struct {
	Query
	// Judgements are those of the releases that the version may be one of.
	Judgements []Judgement
}

// Inspect answers a Query. It only reads, and no content of a file but what is
// asked for gets into the answer.
func Inspect(q Query) *Report {
	report := &Report{Query: q}
	all := releasesOf(q.Version, 0)
	c, err := q.load(q.File, all[0]) // the newest of their series load it the same way
	if err == nil {
		for _, r := range releasesOf(q.Version, c.version()) {
			report.Judgements = append(report.Judgements, r.judge(c, q.CertsD, q.same))
		}
		return report
	}
	for _, r := range all {
		j := Judgement{Release: r.String(), Reads: Unknown, Why: err.Error(), release: r, same: q.same}
		if missing, ok := errors.AsType[*missingError](err); ok {
			j.refuse("containerd does not start: "+missing.Error(), fmt.Sprintf("in %s, take %s out of imports, or write that file", missing.by, missing.file))
		}
		report.Judgements = append(report.Judgements, j)
	}
	return report
}

// Reads tells whether containerd reads the certs.d, as far as all judgements agree.
func (r *Report) Reads() Answer {
	return agreed(r.Judgements, func(j Judgement) Answer { return j.Reads })
}

func agreed(judgements []Judgement, of func(Judgement) Answer) Answer {
	if len(judgements) == 0 {
		return Unknown
	}
	first := of(judgements[0])
	if slices.ContainsFunc(judgements, func(j Judgement) bool { return of(j) != first }) {
		return Unknown
	}
	return first
}

// String says what was found, and what to do.
func (r *Report) String() string {
	return r.say(func(j Judgement) string {
		switch j.Reads {
		case Yes:
			by := j.From
			if by == "" {
				by = "its default"
			}
			text := fmt.Sprintf("reads %s, by %s", r.CertsD, by)
			if r.Version != "" {
				text += fmt.Sprintf(" (CRI pulls by its %s)", j.Pull)
			}
			text += "."
			if i := slices.IndexFunc(j.Roots, func(root string) bool { return r.same(root, r.CertsD) }); i > 0 {
				text += fmt.Sprintf(" It looks in %s first.", list(j.Roots[:i]))
			}
			return text + "\n"
		case Unknown:
			return fmt.Sprintf("may read %s or not: %s.\n", r.CertsD, j.Why)
		}
		return fmt.Sprintf("does not read %s: %s.\n", r.CertsD, j.Why) + toMend(j.Steps)
	})
}

// say has each judgement say something, and releases that say the same only once.
func (r *Report) say(of func(Judgement) string) string {
	var texts []string
	names := map[string][]string{}
	for _, j := range r.Judgements {
		text := of(j)
		if names[text] == nil {
			texts = append(texts, text)
		}
		names[text] = append(names[text], j.Release)
	}
	if len(texts) == 1 && r.Version == "" {
		return "containerd " + texts[0]
	}
	var out strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&out, "containerd %s %s", either(names[text]), text)
	}
	return out.String()
}

// either lists releases of which each does the same.
func either(names []string) string {
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func toMend(steps []string) string {
	var out strings.Builder
	out.WriteString("To mend it:\n")
	for i, step := range steps {
		fmt.Fprintf(&out, "%d. %s\n", i+1, strings.TrimSuffix(step, "\n"))
	}
	return out.String()
}
