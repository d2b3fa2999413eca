// Package report prints what a node answers, for people: the same in pyrsia and in
// the plugin of kubectl, which call it. It imports package client and package ledger.
package report

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// ImageHelp says in which ways an image can be asked for.
var ImageHelp = fmt.Sprintf(`Asks a node for all blocks of an image, or of a digest: of an index, of a
platform's manifest, or an image ID. Any way will do in which a client shows one:
by its name, also the one at a mirror of this machine (127.0.0.1:5001/library/alpine:3.20),
by the digest that 'docker images --digests', crictl or a pod's imageID shows, by
both, or by the first %d digits of an ID or more.`, ledger.MinDigits)

// LogHelp says what a log is of.
var LogHelp = ImageHelp + ` PLATFORMS counts what can be run:
attestations are none.

Without an image it shows the newest blocks of the ledger, of all types: what was
recorded, withdrawn and restored, and when the key changed. --follow goes on with
those to come, oldest first.`

// Blocks lists blocks. Wide adds the upstream and the hash of each; header is false where
// it goes on with a list.
func Blocks(w io.Writer, blocks []ledger.BlockJSON, wide, header bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if header {
		columns := "BLOCK\tTIME\tIMAGE\tDIGEST\tPLATFORMS"
		if wide {
			columns += "\tUPSTREAM\tHASH"
		}
		fmt.Fprintln(tw, columns)
	}
	for _, b := range blocks {
		l := lineOf(b)
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s", b.Height, l.at(), l.subject, l.digest, l.platforms)
		if wide {
			fmt.Fprintf(tw, "\t%s\t%s", l.upstream, b.Hash)
		}
		if l.note != "" {
			fmt.Fprintf(tw, "\t%s", l.note)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// CSV lists blocks as comma-separated values.
func CSV(w io.Writer, blocks []ledger.BlockJSON, header bool) error {
	out := csv.NewWriter(w)
	if header {
		_ = out.Write([]string{"block", "time", "image", "digest", "platforms", "upstream", "hash", "note"}) // Error has it
	}
	for _, b := range blocks {
		l := lineOf(b)
		_ = out.Write([]string{strconv.FormatInt(b.Height, 10), l.at(), l.subject, l.digest, l.platforms, l.upstream, b.Hash, l.note})
	}
	out.Flush()
	return out.Error()
}

// line is what a list says of a block.
type line struct {
	time                                       time.Time
	subject, digest, platforms, upstream, note string
}

func (l *line) at() string {
	if l.time.IsZero() {
		return "-"
	}
	return l.time.Format(time.RFC3339)
}

// lineOf describes a block of any type.
func lineOf(b ledger.BlockJSON) line {
	l := line{subject: "-", digest: "-", platforms: "-", upstream: "-"}
	e, err := ledger.ReadEntry(b.Height, []byte(b.Entry))
	switch {
	case err != nil:
		l.note = fmt.Sprintf("(%v)", err)
	case e.Artifact != nil:
		a := e.Artifact
		l = line{a.Time, a.Artifact, a.Digest.String(), strconv.Itoa(len(a.Images())), a.Upstream, ""}
		notes := withdrawals(b, a)
		if why := a.Exception(); why != "" {
			notes = append(notes, why)
		}
		l.note = strings.Join(notes, "; ")
	case e.Revocation != nil:
		r := e.Revocation
		l.time, l.subject, l.digest, l.note = r.Time, r.Artifact, r.Digest.String(), fmt.Sprintf("withdraws block %d: %s", r.Block, r.Reason)
	case e.Withdrawal != nil:
		r := e.Withdrawal
		l.time, l.subject, l.digest, l.note = r.Time, r.Repository, r.Digest.String(), "withdraws this digest: "+r.Reason
	case e.Restoration != nil:
		r := e.Restoration
		l.time, l.subject, l.digest, l.note = r.Time, r.Repository, r.Digest.String(), "restores this digest: "+r.Reason
	case e.Rotation != nil:
		l.time, l.note = e.Rotation.Time, "hands the ledger over to the key "+e.Rotation.Key
	}
	return l
}

// withdrawals say which digests of a block are withdrawn, and why.
func withdrawals(b ledger.BlockJSON, a *ledger.AddArtifact) (notes []string) {
	for _, w := range b.Withdrawn {
		what := ""
		if w.Digest != a.Digest {
			what = "platform " + w.Digest.String() + " "
		}
		notes = append(notes, fmt.Sprintf("%swithdrawn by block %d: %s", what, w.By, w.Reason))
	}
	return notes
}

// Absent says that the ledger of a node has nothing of what was asked for.
func Absent(what, node string) error {
	if ledger.IsShortID(what) {
		return fmt.Errorf("there is no image %s on the ledger of %s; if it is the beginning of an image ID, give at least %d digits of it", what, node, ledger.MinDigits)
	}
	return errors.New(what + " is not on the ledger of " + node)
}

// Verified says which block a proof is of. d is the digest that was verified.
func Verified(b *ledger.VerifiedBlock, d fmt.Stringer) string {
	text := fmt.Sprintf("verified: %s@%s is block %d of %s, recorded %s", b.Artifact.Name(), d, b.Height, b.Checkpoint.Origin, b.Artifact.Time.Format(time.RFC3339))
	if why := b.Artifact.Exception(); why != "" {
		text += ", " + why
	}
	return text
}
