package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/pyrsia/pyrsia-operator/node/audit"
)

// auditReport is what 'audit' found.
type auditReport struct {
	Ledger audit.Head `json:"ledger"`
	// Complete is false where pods of some namespaces, which Unseen names, could not be
	// listed. Namespaces are those that were; none: all of them.
	Complete   bool                  `json:"complete"`
	Namespaces []string              `json:"namespaces,omitempty"`
	Unseen     []string              `json:"unseen,omitempty"`
	Pods       int                   `json:"pods"`
	Summary    map[audit.Verdict]int `json:"summary"` // images by verdict
	Images     []auditRow            `json:"images"`

	now time.Time
}

// auditRow is one image, and who uses it.
type auditRow struct {
	audit.Finding
	Users []user `json:"users"`
}

func newAuditReport(head audit.Head, findings []audit.Finding, found *inUse) *auditReport {
	r := &auditReport{
		Ledger: head, Complete: len(found.unseen) == 0, Namespaces: found.seen, Unseen: found.unseen, Pods: found.pods,
		Summary: map[audit.Verdict]int{}, Images: []auditRow{}, now: time.Now(),
	}
	for i, f := range findings {
		r.Summary[f.Verdict]++
		r.Images = append(r.Images, auditRow{f, found.users[i]})
	}
	slices.SortStableFunc(r.Images, func(a, b auditRow) int { return audit.Compare(a.Finding, b.Finding) })
	return r
}

// shortDigest is how much of a digest a table shows.
const shortDigest = len("sha256:") + 12

func (r *auditReport) table(w io.Writer, wide bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	header := "VERDICT\tUSES\tIMAGE\tDIGEST\tBLOCK\tAGE\tNOTE"
	if wide {
		header += "\tUSED BY"
	}
	fmt.Fprintln(tw, header)
	for _, i := range r.Images {
		block, age, d := "-", "-", i.Digest.String()
		if i.Block != nil {
			block, age = strconv.FormatInt(*i.Block, 10), duration.HumanDuration(r.now.Sub(*i.Recorded))
		}
		if !wide && len(d) > shortDigest {
			d = d[:shortDigest]
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\t%s", i.Verdict, len(i.Users), i.Image, d, block, age, r.note(i))
		if wide {
			fmt.Fprintf(tw, "\t%s", usedBy(i.Users))
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.summary())
	return err
}

// note says of a row what the other columns do not.
func (r *auditReport) note(i auditRow) string {
	var notes []string
	if i.Verdict == audit.Moved {
		notes = append(notes, fmt.Sprintf("now %s, for %s", i.Newer, duration.HumanDuration(r.now.Sub(*i.Since))))
	}
	if i.Verdict == audit.Renamed {
		notes = append(notes, "as "+i.As)
	}
	if i.Note != "" {
		notes = append(notes, i.Note)
	}
	return strings.Join(notes, "; ")
}

func usedBy(users []user) string {
	var out []string
	for _, u := range users {
		out = append(out, u.String())
	}
	return strings.Join(slices.Compact(out), " ")
}

// summary tells how many images there are of each verdict, and what that rests on.
func (r *auditReport) summary() string {
	var counts []string
	for _, v := range audit.Verdicts {
		if n := r.Summary[v]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, v))
		}
	}
	where := ""
	if len(r.Namespaces) > 0 {
		where = " of " + strings.Join(r.Namespaces, ", ")
	}
	out := fmt.Sprintf("%d images in %d pods%s: %s.\nBy %s at %d blocks (root %s), signed ", len(r.Images), r.Pods, where, strings.Join(counts, ", "), r.Ledger.Origin, r.Ledger.Size, r.Ledger.Root)
	switch {
	case r.Ledger.Signed == nil:
		out += "at no time that it tells: STALE"
	case r.Ledger.Stale:
		out += duration.HumanDuration(r.now.Sub(*r.Ledger.Signed)) + " ago: STALE, later withdrawals and tags are not in it"
	default:
		out += duration.HumanDuration(r.now.Sub(*r.Ledger.Signed)) + " ago"
	}
	out += fmt.Sprintf(". Blocks are proven; that something is not there, or not withdrawn, is the word of %s.", r.Ledger.Node)
	if !r.Complete {
		out += "\nINCOMPLETE: without the right to list the pods of " + strings.Join(r.Unseen, ", ") + "."
	}
	return out
}

func (r *auditReport) csv(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write([]string{"verdict", "image", "digest", "observed", "block", "recorded", "newer", "note", "namespace", "name", "container"}); err != nil {
		return err
	}
	for _, i := range r.Images {
		block, recorded := "", ""
		if i.Block != nil {
			block, recorded = strconv.FormatInt(*i.Block, 10), i.Recorded.Format(time.RFC3339)
		}
		for _, u := range i.Users {
			if err := out.Write([]string{
				string(i.Verdict), i.Image, i.Digest.String(), strconv.FormatBool(i.Observed), block, recorded, i.Newer.String(), i.Note, u.Namespace, u.Name, u.Container,
			}); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// exit is the error that ends the program with the right code.
func (r *auditReport) exit(failOn []string) error {
	var found []string
	for _, v := range failOn {
		switch {
		case v == staleHead && r.Ledger.Stale:
			found = append(found, "the ledger is stale")
		case r.Summary[audit.Verdict(v)] > 0:
			found = append(found, fmt.Sprintf("%d images are %s", r.Summary[audit.Verdict(v)], v))
		}
	}
	if len(found) > 0 {
		return &exitError{exitFound, strings.Join(found, ", ")}
	}
	if !r.Complete {
		return &exitError{exitIncomplete, "not all namespaces were seen: " + strings.Join(r.Unseen, ", ")}
	}
	return nil
}

// sarif writes the findings in SARIF 2.1.0 (docs.oasis-open.org/sarif), for code scanning
// services. What is vouched for is no finding.
func (r *auditReport) sarif(w io.Writer) error {
	type text struct {
		Text string `json:"text"`
	}
	type rule struct {
		ID    string `json:"id"`
		Short text   `json:"shortDescription"`
	}
	type logical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	type location struct {
		Logical []logical `json:"logicalLocations"`
	}
	type result struct {
		Rule      string            `json:"ruleId"`
		Level     string            `json:"level"`
		Message   text              `json:"message"`
		Locations []location        `json:"locations"`
		Prints    map[string]string `json:"partialFingerprints"`
	}
	rules, results := []rule{}, []result{}
	for _, v := range audit.Verdicts {
		if v != audit.Vouched {
			rules = append(rules, rule{string(v), text{sarifRules[v].what}})
		}
	}
	for _, i := range r.Images {
		if i.Verdict == audit.Vouched {
			continue
		}
		found := result{
			Rule: string(i.Verdict), Level: sarifRules[i.Verdict].level, Message: text{fmt.Sprintf("%s (%s): %s. %s", i.Image, i.Digest, sarifRules[i.Verdict].what, r.note(i))},
			Prints: map[string]string{"image/v1": i.Image + "@" + i.Digest.String()},
		}
		for _, u := range i.Users {
			found.Locations = append(found.Locations, location{[]logical{{u.String() + "/" + u.Container, "resource"}}})
		}
		results = append(results, found)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{
		"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
		"runs": []any{map[string]any{
			"tool":       map[string]any{"driver": map[string]any{"name": "kubectl-pyrsia", "informationUri": "https://github.com/pyrsia/pyrsia-operator", "rules": rules}},
			"results":    results,
			"properties": map[string]any{"ledger": r.Ledger, "complete": r.Complete},
		}},
	})
}

// sarifRules say what each verdict means, and how grave it is in SARIF's terms.
var sarifRules = map[audit.Verdict]struct{ level, what string }{
	audit.Withdrawn: {"error", "The publisher has withdrawn the image"},
	audit.Unknown:   {"error", "The ledger has no block of the image"},
	audit.Renamed:   {"warning", "The image is vouched for under the name of another repository alone"},
	audit.Moved:     {"note", "The image's tag has a newer digest"},
	audit.Foreign:   {"note", "The image is of a registry that no mirror is for"},
}
