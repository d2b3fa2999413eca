// Package report prints what a node answers, for people: the same in pyrsia and in
// the plugin of kubectl, which call it. It imports package client and package ledger.
package report

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// LogHelp says what can be asked for.
var LogHelp = fmt.Sprintf(`Asks a node for all blocks of an image, or of a digest: of an index, of a
platform's manifest, or an image ID. Any way will do in which a client shows one:
by its name, also the one at a mirror of this machine (127.0.0.1:5001/library/alpine:3.20),
by the digest that 'docker images --digests', crictl or a pod's imageID shows, by
both, or by the first %d digits of an ID or more. PLATFORMS counts what can be run:
attestations are none.`, ledger.MinDigits)

// Blocks lists blocks. Wide adds the upstream and the hash of each.
func Blocks(w io.Writer, blocks []ledger.BlockJSON, wide bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	header, more := "BLOCK\tTIME\tIMAGE\tDIGEST\tPLATFORMS", ""
	if wide {
		header += "\tUPSTREAM\tHASH"
	}
	fmt.Fprintln(tw, header)
	for _, b := range blocks {
		a, err := ledger.ParseEntry([]byte(b.Entry))
		if err != nil {
			fmt.Fprintf(tw, "%d\t(%v)\n", b.Height, err)
			continue
		}
		if wide {
			more = "\t" + a.Upstream + "\t" + b.Hash
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%d%s", b.Height, a.Time.Format(time.RFC3339), a.Artifact, a.Digest, len(a.Images()), more)
		notes := withdrawals(b, a)
		if why := a.Exception(); why != "" {
			notes = append(notes, why)
		}
		if len(notes) > 0 {
			fmt.Fprintf(tw, "\t%s", strings.Join(notes, "; "))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
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
