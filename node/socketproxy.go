package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/pyrsia/pyrsia-operator/node/server"
)

// unixPrefix in Config.MirrorAddr is before the path of a Unix socket, where a
// socket proxy ('pyrsia frontend') passes connections on.
const unixPrefix = "unix:"

// serveSocketProxy serves container clients at a Unix socket. The socket gets its
// name when the node is ready: until then socket proxies have their clients wait.
// What a killed node leaves at that name refuses connections, which is waiting too.
func (n *Node) serveSocketProxy(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return fmt.Errorf("listening for the socket proxy: %w", err)
	}
	unnamed := socket + ".new"
	if err := os.Remove(unnamed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listening for the socket proxy: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: unnamed})
	if err != nil {
		return fmt.Errorf("listening for the socket proxy: %w", err)
	}
	l.SetUnlinkOnClose(false)
	n.serveOn(server.Limit(l, mirrorBounds, n.log), socket, n.clients.mirror)
	n.done.Go(func() {
		select {
		case <-ctx.Done():
		case <-n.becameReady:
			// Not synced: after a power cut no socket leads anywhere.
			if err := os.Rename(unnamed, socket); err != nil {
				n.failed <- fmt.Errorf("listening for the socket proxy: %w", err)
			}
		}
	})
	return nil
}

// setReady is called when the node can serve what the ledger vouches for.
func (n *Node) setReady() {
	n.ready.Store(true)
	n.onceReady.Do(func() { close(n.becameReady) })
}
