package tlogmirror

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/quorum"
	"github.com/pyrsia/pyrsia-operator/node/server"
)

const (
	// maxExcess is how many entries an upload may repeat that are here already: what a
	// client is to send in one request at most.
	maxExcess = 32 * packageEntries
	// maxPackages bounds one request; what it does not cover is left to further ones.
	maxPackages = 128
	// packageTimeout is for each package of an upload, and for its header.
	packageTimeout = 30 * time.Second
	// heldEntries and heldBytes are how much of an upload is made durable at once.
	heldEntries = 32 * packageEntries
	heldBytes   = 4 << 20
	// busyRetry is when a client that was refused may come back, in seconds.
	busyRetry = 5
)

// serveAddEntries is add-entries (c2sp.org/tlog-mirror).
func (c *Cosigner) serveAddEntries(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Accept-Encoding", "gzip")
	client := server.Client(r)
	if !c.uploads.take(client) {
		w.Header().Set("Retry-After", strconv.Itoa(busyRetry))
		http.Error(w, "as many uploads are under way as this mirror takes: try again later", http.StatusServiceUnavailable)
		return
	}
	defer c.uploads.give(client)
	control := http.NewResponseController(w)
	// A longer time than for other bodies, but for each part, so that bytes have to move.
	more := func() { _ = control.SetReadDeadline(time.Now().Add(packageTimeout)) }
	more()
	body, err := openUpload(r)
	if err != nil {
		c.fail(w, err)
		return
	}
	u := &upload{cosigner: c, body: body, more: more}
	lines, err := u.run(r.Context())
	if err == nil {
		writeLines(w, lines)
		return
	}
	p, ok := errors.AsType[*progress](err)
	if !ok || p.code != http.StatusAccepted {
		// The server would wait for the rest of the body, to use the connection again.
		w.Header().Set("Connection", "close")
	}
	if ok {
		p.write(w, c)
		return
	}
	c.fail(w, err)
}

// openUpload checks a request's header fields, and decompresses its body. Nothing is
// read before its turn, so a body that expands without end costs what a long one does.
func openUpload(r *http.Request) (*bufio.Reader, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/octet-stream" {
		return nil, &httpError{http.StatusUnsupportedMediaType, "want Content-Type: application/octet-stream"}
	}
	var body io.Reader = r.Body
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		zr, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, &httpError{http.StatusBadRequest, "the body is not compressed by gzip, as its header says"}
		}
		body = zr
	default:
		return nil, &httpError{http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Encoding %.40q: want gzip or none", encoding)}
	}
	return bufio.NewReaderSize(body, 32<<10), nil
}

// progress is the answer to an upload that does not end here: 409, or 202 if it came
// further. It says where the client is to go on.
type progress struct {
	code  int
	under quorum.Signed // a checkpoint that may be uploaded to
	next  int64
}

func (p *progress) Error() string {
	return fmt.Sprintf("go on at entry %d to %d", p.next, p.under.Tree.Size)
}

func (p *progress) write(w http.ResponseWriter, c *Cosigner) {
	w.Header().Set("Content-Type", "text/x.tlog.mirror-info")
	w.WriteHeader(p.code)
	// An upload starts at or before its end. Who is told of a next entry behind it
	// could only send what is malformed.
	next := min(p.next, p.under.Tree.Size)
	_, _ = fmt.Fprintf(w, "%d\n%d\n%s\n", p.under.Tree.Size, next, base64.StdEncoding.EncodeToString(c.ticket(p.under))) // the client is gone
}

// upload is one request of add-entries.
type upload struct {
	cosigner *Cosigner
	body     *bufio.Reader
	more     func() // gives the client the time for one more part

	m     *Member
	under quorum.Signed // the checkpoint of the upload's end
	tree  tlog.Tree     // its tree
	at    int64         // up to here entries were authenticated

	held  [][]byte // authenticated entries before at that are not stored yet
	bytes int      // of held
}

// run takes an upload, and returns cosignatures if it is complete.
func (u *upload) run(ctx context.Context) (lines string, err error) {
	h, err := readUploadHeader(u.body)
	if err != nil {
		return "", &httpError{http.StatusBadRequest, fmt.Sprintf("header of the upload: %v", err)}
	}
	if err := u.begin(h); err != nil {
		return "", err
	}
	start := u.at
	short := u.receive(ctx)
	// What was authenticated is kept, however the rest fared.
	if err := u.store(ctx); err != nil {
		return "", err
	}
	if _, ok := errors.AsType[*cutOff](short); short != nil && !ok {
		return "", short
	}
	next := u.m.entries.Now().N
	switch {
	case next >= u.tree.N: // another upload may have brought what is missing in this one
		return u.m.advance(ctx, u.under)
	case u.at > start:
		return "", &progress{http.StatusAccepted, u.under, next}
	default:
		return "", &httpError{http.StatusBadRequest, fmt.Sprintf("no whole entry package arrived: %v", short)}
	}
}

// begin decides whether an upload may go on.
func (u *upload) begin(h uploadHeader) error {
	m := u.cosigner.member(OriginHash(h.origin))
	if m == nil {
		return &httpError{http.StatusNotFound, fmt.Sprintf("the log %.80q is not mirrored here", h.origin)}
	}
	state, next := m.State(), m.entries.Now().N
	if state.Pending.Note == nil {
		return &httpError{http.StatusUnprocessableEntity, "no checkpoint of this log was ever added here: begin with add-checkpoint"}
	}
	under, ok := m.known(h)
	if !ok || under.Tree.Size < state.Log.Tree.Size {
		return &progress{http.StatusConflict, state.Pending, next}
	}
	u.m, u.under, u.tree = m, under, tlog.Tree{N: under.Tree.Size, Hash: under.Tree.Root}
	if h.start > uint64(next) || min(under.Tree.Size, next)-int64(h.start) > maxExcess {
		return &progress{http.StatusConflict, under, next}
	}
	u.at = int64(h.start)
	return nil
}

// known finds the checkpoint of an upload's end among those that are or were pending.
func (m *Member) known(h uploadHeader) (quorum.Signed, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := []quorum.Signed{m.state.Pending}
	if m.state.Log.Note != nil {
		known = append(known, m.state.Log)
	}
	known = append(known, m.recent...)
	if s, ok := m.cosigner.openTicket(m.log.Origin, h.ticket); ok {
		known = append(known, s)
	}
	for _, s := range known {
		if uint64(s.Tree.Size) == h.end {
			return s, true
		}
	}
	return quorum.Signed{}, false
}

// cutOff is why a body ended before the upload was complete. That is no fault of what
// came before.
type cutOff struct{ error }

// receive reads and authenticates packages until the upload is complete, or tells why
// it is not.
func (u *upload) receive(ctx context.Context) error {
	for range maxPackages {
		if u.at == u.tree.N {
			return nil
		}
		u.more()
		p, err := readPackage(u.body, u.at, u.tree.N)
		if errors.Is(err, errLongProof) {
			return &httpError{http.StatusUnprocessableEntity, err.Error()}
		}
		if err != nil {
			return &cutOff{err}
		}
		before, err := u.before(ctx)
		if err != nil {
			return err
		}
		if err := p.check(before, u.tree); err != nil {
			return &httpError{http.StatusUnprocessableEntity, fmt.Sprintf("entries %d to %d are not in the checkpoint of size %d: %v", p.start, p.end, u.tree.N, err)}
		}
		u.at = p.end
		u.held = append(u.held, p.entries...)
		for _, e := range p.entries {
			u.bytes += len(e)
		}
		if len(u.held) >= heldEntries || u.bytes >= heldBytes {
			if err := u.store(ctx); err != nil {
				return err
			}
		}
	}
	return &cutOff{errors.New("one request brings no more packages")}
}

// before are the hashes of the leaves that the next package's subtree has before its
// entries. They are here: an upload starts at or before the next entry.
func (u *upload) before(ctx context.Context) ([]tlog.Hash, error) {
	var indexes []int64
	for i := rounded(u.at); i < u.at; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, i))
	}
	if len(indexes) == 0 {
		return nil, nil
	}
	hashes, err := u.m.entries.Hashes(ctx).ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("reading the entries before %d: %w", u.at, err)
	}
	return hashes, nil
}

// store makes the authenticated entries durable.
func (u *upload) store(ctx context.Context) error {
	if len(u.held) == 0 {
		return nil
	}
	if err := u.m.entries.Append(ctx, u.at-int64(len(u.held)), u.held); err != nil {
		return fmt.Errorf("storing entries: %w", err)
	}
	u.held, u.bytes = nil, 0
	return nil
}

// advance makes a checkpoint whose entries are all durable the mirror's, and returns
// the cosignatures of it.
func (m *Member) advance(ctx context.Context, to quorum.Signed) (lines string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.state
	if bytes.Equal(state.Log.Note, to.Note) {
		return m.lines()
	}
	// What was pending was accepted as a continuation of all before it.
	roots := quorum.Roots{state.Pending.Tree.Size: state.Pending.Tree.Root}
	for _, size := range []int64{state.Log.Tree.Size, to.Tree.Size} {
		if roots[size], err = m.entries.Root(ctx, size); err != nil {
			return "", err
		}
	}
	if got := roots[to.Tree.Size]; got != to.Tree.Root {
		return "", fmt.Errorf("the entries on this disk do not lead to %v that they were proven to be in, but to the root %v", to.Tree, got)
	}
	err = m.change(func(s quorum.State) (quorum.State, error) {
		next, _, err := s.Advance(quorum.Advance{Signed: to, Evidence: roots})
		return next, err
	})
	if refused, ok := errors.AsType[*quorum.Refusal](err); ok && refused.Reason == quorum.Stale {
		return "", &progress{http.StatusConflict, state.Pending, m.entries.Now().N}
	}
	if err != nil {
		return "", err
	}
	return m.lines()
}
