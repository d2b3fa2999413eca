package tlogmirror

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
	"github.com/pyrsia/pyrsia-operator/node/ledger/subtree"
)

// maxRequest bounds the body of add-checkpoint and sign-subtree in bytes: two lines,
// the longest proof, and the largest checkpoint.
const maxRequest = 2*64 + subtree.MaxProof*(hashLine+1) + cosign.MaxNote + 64

// hashLine is a hash in base64, in bytes.
const hashLine = 44

// checkpointRequest is the body of add-checkpoint.
type checkpointRequest struct {
	old        int64
	proof      []tlog.Hash
	checkpoint string // a signed note
}

func parseCheckpointRequest(body string) (r checkpointRequest, err error) {
	lines, checkpoint, err := cutBody(body)
	if err != nil {
		return r, err
	}
	old, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return r, fmt.Errorf("first line %.40q: want 'old SIZE'", lines[0])
	}
	if r.old, err = parseSize(old); err != nil {
		return r, err
	}
	r.checkpoint = checkpoint
	r.proof, err = parseHashes(lines[1:])
	return r, err
}

// subtreeRequest is the body of sign-subtree.
type subtreeRequest struct {
	part       subtree.Range
	hash       tlog.Hash
	proof      []tlog.Hash
	checkpoint string // a signed note
}

func parseSubtreeRequest(body string) (r subtreeRequest, err error) {
	lines, checkpoint, err := cutBody(body)
	if err != nil {
		return r, err
	}
	words := strings.Split(lines[0], " ")
	if len(words) != 3 || words[0] != "subtree" {
		return r, fmt.Errorf("first line %.60q: want 'subtree START END'", lines[0])
	}
	if r.part.Start, err = parseSize(words[1]); err != nil {
		return r, err
	}
	if r.part.End, err = parseSize(words[2]); err != nil {
		return r, err
	}
	// Version 03 of the draft, which is cited, knows no empty subtree.
	if r.part.Start == r.part.End {
		return r, fmt.Errorf("%v has no entries: want a start before the end", r.part)
	}
	if err := r.part.Check(); err != nil {
		return r, err
	}
	if len(lines) < 2 {
		return r, errors.New("second line: want the subtree's hash in base64")
	}
	hashes, err := parseHashes(lines[1:2])
	if err != nil {
		return r, err
	}
	r.hash, r.checkpoint = hashes[0], checkpoint
	r.proof, err = parseHashes(lines[2:])
	return r, err
}

// cutBody cuts a body at its first empty line. There is at least one line before it.
func cutBody(body string) (lines []string, checkpoint string, err error) {
	head, checkpoint, ok := strings.Cut(body, "\n\n")
	if !ok {
		return nil, "", errors.New("want lines, an empty line, and a signed checkpoint")
	}
	return strings.Split(head, "\n"), checkpoint, nil
}

// parseSize reads a number that is written in the one way there is for it.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("size %.40q: want a decimal number without leading zeros", s)
	}
	return n, nil
}

func parseHashes(lines []string) (out []tlog.Hash, err error) {
	if len(lines) > subtree.MaxProof {
		return nil, fmt.Errorf("a proof of %d hashes: at most %d", len(lines), subtree.MaxProof)
	}
	for _, line := range lines {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(line) != hashLine || len(raw) != tlog.HashSize {
			return nil, fmt.Errorf("line %.60q: want a hash of %d bytes in base64", line, tlog.HashSize)
		}
		out = append(out, tlog.Hash(raw))
	}
	return out, nil
}
