package socketproxy

import (
	"context"
	"net"
	"time"
)

// formerSocket is the previous proxy's socket at a former address; its listener is
// nil if there is none.
type formerSocket struct{ *net.TCPListener }

func (s formerSocket) Close() error {
	if s.TCPListener == nil {
		return nil
	}
	return s.TCPListener.Close()
}

// serveFormer serves at the former addresses too, until ctx ends. Clients that do
// not know the new address yet are not refused while it changes. The process that
// holds a former address may end at any time, so listening is retried.
func (p *proxy) serveFormer(ctx context.Context, had formerSocket) {
	for _, addr := range p.Former {
		p.formers.Go(func() {
			if had.TCPListener != nil && had.Addr().String() == addr {
				p.acceptUntil(ctx, had.TCPListener)
			}
			for ctx.Err() == nil {
				if l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr); err == nil {
					p.acceptUntil(ctx, l.(*net.TCPListener))
				}
				select {
				case <-ctx.Done():
				case <-time.After(poll):
				}
			}
		})
	}
}

// acceptUntil serves a listener until the context ends.
func (p *proxy) acceptUntil(ctx context.Context, listener *net.TCPListener) {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	if err := p.accept(listener); err != nil {
		p.Log.Warn("accepting connections", "address", listener.Addr(), "error", err)
		_ = listener.Close()
	}
}
