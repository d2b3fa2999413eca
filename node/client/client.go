// Package client asks a node at its open port, which answers everyone: how it is,
// what its ledger says of an image, and the ledger itself. pyrsia's verbs, the image
// verifier, mirrors that follow a ledger and the plugin of kubectl call it. It imports
// package ledger, and nothing that runs a node.
package client

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	tileTimeout  = 20 * time.Second // for one request about the ledger itself
	queryTimeout = 30 * time.Second // for one question
	// maxAnswer bounds the answer to a question, in bytes.
	maxAnswer = 16 << 20
	// maxReason bounds what is shown of a refusal, in bytes.
	maxReason = 1 << 10
	// firstBuffer is what is taken for an answer before any of it has come.
	firstBuffer = 64 << 10
)

// Client asks one node. It makes one attempt, bounded in time and size. What a node
// answers is not verified: a proof is checked with ledger.VerifyBlock, and a
// replica's Follower checks what it reads. A Client is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New asks the node whose open port is at a URL, such as http://127.0.0.1:8080.
func New(url string, h *http.Client) *Client {
	return &Client{base: strings.TrimSuffix(url, "/"), http: h}
}

// String is the URL of the node.
func (c *Client) String() string { return c.base }

// StatusError is a node's refusal of a question.
type StatusError struct {
	Code   int
	Reason string // what the node says of it
}

func (e *StatusError) Error() string {
	if e.Code == http.StatusConflict && e.Reason != "" {
		return e.Reason // it has understood the question, which has no one answer
	}
	return fmt.Sprintf("the node answered %d %s: %s", e.Code, http.StatusText(e.Code), e.Reason)
}

func (e *StatusError) Unwrap() error { return ledger.ErrNoAnswer }

// silence is the error of a node that does not even refuse, or does not go on.
type silence struct{ error }

func (e silence) Unwrap() []error { return []error{e.error, ledger.ErrSilent} }

// question asks for a path and decodes the JSON that is answered.
func (c *Client) question(ctx context.Context, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	data, err := c.get(ctx, path, uncompressed, maxAnswer, nil)
	if refused, ok := errors.AsType[*StatusError](err); ok {
		return refused
	}
	if err != nil {
		return fmt.Errorf("asking the node: %w", err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s does not answer as a node does: %w; give the URL of a node's open port", c.base, err)
	}
	return nil
}

// encoding is how a node may send an answer. A request for plain bytes accepts
// no others: a compressed kilobyte can be a megabyte.
type encoding string

const (
	uncompressed encoding = "identity"
	compressed   encoding = "gzip"
)

// get reads the answer for a path into the space of buf, if that is enough.
func (c *Client) get(ctx context.Context, path string, as encoding, limit int64, buf []byte) (data []byte, err error) {
	err = c.ask(ctx, path, as, limit, func(body io.Reader, length int64) error {
		// One byte more than expected, to see the end.
		data = slices.Grow(buf[:0], int(min(max(length, 0), limit, firstBuffer))+1)
		for {
			n, err := body.Read(data[len(data):cap(data)])
			data = data[:len(data)+n]
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(data) == cap(data) {
				data = slices.Grow(data, len(data))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// ask has read take the answer for a path, of at most limit bytes. length is what
// the node says, and negative if it does not.
func (c *Client) ask(ctx context.Context, path string, as encoding, limit int64, read func(body io.Reader, length int64) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/"+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", string(as))
	resp, err := c.http.Do(req)
	if err != nil {
		return silence{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // what there is of it
		return &StatusError{resp.StatusCode, strings.TrimSpace(string(reason))}
	}
	body, length := io.Reader(&limited{resp.Body, limit, limit}), resp.ContentLength
	switch got := resp.Header.Get("Content-Encoding"); {
	case got == string(compressed) && as == compressed:
		// Of nothing much can be made too: empty blocks have no end.
		zr, err := gzip.NewReader(&limited{resp.Body, limit + limit/64 + 1<<10, limit})
		if err != nil {
			return fmt.Errorf("%w: %w", ledger.ErrNoAnswer, err)
		}
		body, length = &limited{zr, limit, limit}, -1
	case got != "" && got != string(uncompressed):
		return fmt.Errorf("%w: it came in the encoding %.20q, which was not asked for", ledger.ErrNoAnswer, got)
	}
	return read(body, length)
}

// limited is an error once there is more than limit bytes. Its other errors are
// those of a node that does not go on.
type limited struct {
	r           io.Reader
	left, limit int64
}

var errTooLarge = errors.New("more bytes than")

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%w %d", errTooLarge, l.limit)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errTooLarge) {
		err = silence{err}
	}
	return n, err
}
