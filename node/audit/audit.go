// Package audit compares container images in use with a ledger: which of them it
// vouches for, which were withdrawn, whose tags have moved on. It imports packages
// client and ledger; the plugin of kubectl calls it.
package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Image is a container image in use.
type Image struct {
	Name string // as a spec has it: "alpine:3.20", or with a digest
	// ID is what the container runtime says that runs, as the kubelet reports it
	// (a pod's imageID). It is empty where nothing was observed.
	ID string
}

// Verdict is what a ledger says of an image.
type Verdict string

// The verdicts, the gravest first.
const (
	Withdrawn Verdict = "withdrawn" // the publisher has withdrawn it
	Unknown   Verdict = "unknown"   // the ledger has no block of it
	Renamed   Verdict = "renamed"   // it is vouched for, under the name of another repository alone
	Moved     Verdict = "moved"     // it is vouched for, and its tag has another digest now
	Foreign   Verdict = "foreign"   // it is of a registry that no mirror is for
	Vouched   Verdict = "vouched"
)

// Verdicts are all of them, the gravest first.
var Verdicts = []Verdict{Withdrawn, Unknown, Renamed, Moved, Foreign, Vouched}

// Finding is what a ledger says of one image in use.
type Finding struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest,omitempty"`
	Verdict Verdict       `json:"verdict"`
	// Observed tells that the digest is what the runtime says that runs. Otherwise
	// it is the spec's digest, or the verdict is about the tag.
	Observed bool `json:"observed"`
	// Block is the height of the block that names the digest, which was proven; As is
	// the image that it records, and Recorded its time.
	Block    *int64     `json:"block,omitempty"`
	As       string     `json:"as,omitempty"`
	Recorded *time.Time `json:"recorded,omitempty"`
	// Matched is what of the block has the digest: index, platform or config. A config
	// says nothing of the layers of the image that was pulled.
	Matched string `json:"matched,omitempty"`
	// Newer is the digest that the tag has now, and Since the time of its block.
	Newer digest.Digest `json:"newer,omitempty"`
	Since *time.Time    `json:"since,omitempty"`
	Note  string        `json:"note,omitempty"`
}

// Head is the head of the ledger under which an audit was made.
type Head struct {
	Origin string     `json:"origin"`
	Size   int64      `json:"size"` // blocks
	Root   string     `json:"root"` // base64
	Signed *time.Time `json:"signed,omitempty"`
	Stale  bool       `json:"stale"`
	// Node is the URL of the node that was asked: that a block is on the ledger is
	// proven, that something is not there, or not withdrawn, is its word.
	Node string `json:"node"`
}

// Audit asks one node about images.
type Audit struct {
	Node *client.Client
	// Verifier has the ledger's keys.
	Verifier *ledger.Verifier
	// Registries are those that mirrors are for, by their usual names; "_default" is
	// all of them.
	Registries []string
	// MaxAge is how old a head may be, by the publisher's clock.
	MaxAge time.Duration
}

// Run judges images, in their order. The smallest head of all answers is given: what
// holds under a larger one that extends it was at least not missing there.
func (a *Audit) Run(ctx context.Context, images []Image, now time.Time) (head Head, findings []Finding, err error) {
	uses := make([]use, len(images))
	var asked []int
	var questions []string
	for i, image := range images {
		if uses[i] = read(image); uses[i].question != "" {
			asked, questions = append(asked, i), append(questions, uses[i].question)
		}
	}
	answers := make([]ledger.AnswerJSON, len(images))
	var smallest *ledger.Checkpoint
	for first := true; first || len(questions) > 0; first = false {
		n := min(len(questions), client.LookupBatch)
		answer, err := a.lookUp(ctx, questions[:n])
		if err != nil {
			return head, nil, err
		}
		checkpoint, err := ledger.VerifyCheckpoint(a.Verifier, []byte(answer.Checkpoint))
		if err != nil {
			return head, nil, fmt.Errorf("the head that %s answers with: %w", a.Node, err)
		}
		for i, at := range asked[:n] {
			if err := prove(checkpoint, answer.Answers[i]); err != nil {
				return head, nil, fmt.Errorf("what %s answers of %s: %w", a.Node, uses[at].question, err)
			}
			answers[at] = answer.Answers[i]
		}
		if smallest == nil || checkpoint.Tree.N < smallest.Tree.N {
			smallest = &checkpoint
		}
		asked, questions = asked[n:], questions[n:]
	}
	head = Head{Origin: smallest.Origin, Size: smallest.Tree.N, Root: smallest.Tree.Hash.String(), Node: a.Node.String(), Stale: true}
	if said := smallest.Said(now); !said.IsZero() {
		head.Signed, head.Stale = &said, now.Sub(said) > a.MaxAge
	}
	for i := range images {
		f, err := a.judge(&uses[i], answers[i])
		if err != nil {
			return head, nil, fmt.Errorf("what %s answers of %s: %w", a.Node, uses[i].question, err)
		}
		findings = append(findings, f)
	}
	return head, findings, nil
}

// lookUp asks; without questions for the head alone.
func (a *Audit) lookUp(ctx context.Context, questions []string) (ledger.LookupJSON, error) {
	if len(questions) > 0 {
		return a.Node.Lookup(ctx, questions)
	}
	signed, err := a.Node.ReadEndpoint(ctx, "checkpoint")
	return ledger.LookupJSON{Checkpoint: string(signed)}, err
}

// prove checks that the blocks of an answer are in the ledger.
func prove(head ledger.Checkpoint, answer ledger.AnswerJSON) error {
	if b := answer.Block; b != nil {
		if err := head.Includes(b.Height, []byte(b.Entry), answer.Inclusion); err != nil {
			return err
		}
	}
	if b := answer.Tag; b != nil {
		return head.Includes(b.Height, []byte(b.Entry), answer.TagInclusion)
	}
	return nil
}
