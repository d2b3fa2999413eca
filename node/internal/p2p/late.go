package p2p

import (
	"net/http"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// lateEvery is how often it is looked whether a node is connected that is waited for.
const lateEvery = 20 * time.Millisecond

// Bootstrapped are the nodes that were reached at the bootstrap addresses the last
// time, whatever stands there: a name may lead to several.
func (h *Host) Bootstrapped() (ids []peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, reached := range h.reached {
		ids = append(ids, reached...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// LateClient asks a node of the bootstrap addresses that may not be connected yet, at
// URLs that begin with the second result. Each request waits for the connection, which
// the host goes on to make, as long as its context lets it.
func (h *Host) LateClient(id peer.ID) (*http.Client, string) {
	return &http.Client{
		Transport:     late{h, id},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, streamBase
}

type late struct {
	host *Host
	id   peer.ID
}

// RoundTrip implements http.RoundTripper.
func (l late) RoundTrip(r *http.Request) (*http.Response, error) {
	tick := time.NewTicker(lateEvery)
	defer tick.Stop()
	for {
		if p, ok := l.host.Peer(l.id); ok {
			return p.stream.Transport.RoundTrip(r)
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}
