package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/pyrsia/pyrsia-operator/node/internal/p2p"
)

// The causes for which a peer does not deliver.
const (
	causeWrong   = "wrong"   // it sent other content
	causeAltered = "altered" // other content came over plain HTTP: from whom is not known
	causeShort   = "short"   // it stopped before the end
	causeSlow    = "slow"    // it sent too little for too long
	causeLacks   = "lacks"   // it says that it does not have the content
	causeFailed  = "failed"  // it could not be reached, or answered with an error
)

var (
	errLacks = errors.New("it does not have the content")
	errSlow  = errors.New("it sends too little: given up")
	errLost  = errors.New("another peer was faster") // nobody's fault
)

// badContent is what a lying or broken peer sent, or, unless the way to it was
// secure, anyone between it and this node.
type badContent struct {
	peer   *p2p.Peer
	secure bool
	err    error
}

func (e *badContent) Error() string { return fmt.Sprintf("peer %s: %v", e.peer.ID, e.err) }
func (e *badContent) Unwrap() error { return e.err }

func answered(p *p2p.Peer, resp *http.Response) error {
	return fmt.Errorf("peer %s answered %s", p.ID, resp.Status)
}

// insecure tells whether wrong content came over a connection that others may
// tamper with: the peer is asked again over the secure one.
func insecure(err error) bool {
	bad, ok := errors.AsType[*badContent](err)
	return ok && !bad.secure
}

// blame notes why a peer did not deliver, and what follows for it: one that
// sent wrong content is banned, one that was slow is asked after the others.
func (f *Fetcher) blame(p *p2p.Peer, err error) {
	cause := causeFailed
	bad, wrong := errors.AsType[*badContent](err)
	switch {
	case errors.Is(err, errLost), errors.Is(err, context.Canceled) && f.ctx.Err() != nil:
		return
	case wrong && !bad.secure:
		cause = causeAltered
		p.AvoidPlain()
		f.log.Warn("wrong content came from a peer's HTTP port, and it is asked over libp2p instead", "peer", p.ID, "error", bad)
	case wrong:
		cause = causeWrong
		p.Ban(banTime)
		f.log.Warn("a peer sent wrong content and is avoided for a while", "peer", p.ID, "for", banTime.String(), "error", bad)
	case errors.Is(err, errLacks):
		cause = causeLacks
	case errors.Is(err, errSlow):
		cause = causeSlow
		p.Avoid(avoidTime)
	case errors.Is(err, io.ErrUnexpectedEOF):
		cause = causeShort
		p.Avoid(avoidTime)
	default:
		p.Avoid(avoidTime)
	}
	f.metrics.errors.WithLabelValues(cause).Inc()
	if cause != causeLacks && !wrong {
		f.log.Debug("a peer did not deliver", "peer", p.ID, "cause", cause, "error", err)
	}
}
