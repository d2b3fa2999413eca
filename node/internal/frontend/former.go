package frontend

import (
	"context"
	"net"
	"time"
)

// formerSocket is the socket of the frontend before, at an address that is not the
// newest; it has no listener if there is none.
type formerSocket struct{ *net.TCPListener }

func (s formerSocket) Close() error {
	if s.TCPListener == nil {
		return nil
	}
	return s.TCPListener.Close()
}

// serveFormer serves at the former addresses too, until ctx ends. Clients that know
// no newer one are refused by nobody while the address changes. Whoever holds one of
// them may go at any time: it is tried again.
func (f *frontend) serveFormer(ctx context.Context, had formerSocket) {
	for _, addr := range f.Former {
		f.formers.Go(func() {
			if had.TCPListener != nil && had.Addr().String() == addr {
				f.acceptUntil(ctx, had.TCPListener)
			}
			for ctx.Err() == nil {
				if l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr); err == nil {
					f.acceptUntil(ctx, l.(*net.TCPListener))
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
func (f *frontend) acceptUntil(ctx context.Context, listener *net.TCPListener) {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	if err := f.accept(listener); err != nil {
		f.Log.Warn("accepting connections", "address", listener.Addr(), "error", err)
		_ = listener.Close()
	}
}
