package node

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/mirror"
	"github.com/pyrsia/pyrsia-operator/node/internal/publish"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// openPublisher makes this node a publisher.
func (n *Node) openPublisher() (err error) {
	n.publisher, err = publish.New(publish.Config{
		Writer: n.writer, Store: n.store,
		Upstreams: n.config.Upstreams, SecretDir: n.config.UpstreamSecrets, Private: n.config.UpstreamPrivate,
		StateFile:        filepath.Join(n.config.DataDir, "dropped.json"),
		AttachmentsEvery: n.config.AttachmentsEvery,
		Concurrency:      n.config.CopyConcurrency, Bandwidth: n.config.UpstreamLimit,
		Provide: n.announceContent,
		OnPull:  publish.OnPull{Allow: n.config.OnPullAllow, PerHour: n.config.OnPullPerHour},
		Metrics: n.registry, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { n.publisher.Close(); return nil })
	return nil
}

// onPullWait bounds how long a client waits for a publication before it gets an
// answer to retry: container clients wait half a minute or longer.
const onPullWait = 20 * time.Second

// publishOnPull is where a pull leads to an upstream: on a publisher that was
// told to, and nowhere else.
func (n *Node) publishOnPull(ctx context.Context, image ledger.Image) error {
	ctx, cancel := context.WithTimeout(ctx, onPullWait)
	defer cancel()
	err := n.publisher.Pull(ctx, image)
	refusal, ok := errors.AsType[*control.Error](err)
	switch {
	case !ok:
		return err
	case refusal.Reason == control.ReasonImageNotFound:
		return ledger.ErrNotFound
	case refusal.RetryAfterSeconds > 0:
		return &mirror.LaterError{After: time.Duration(refusal.RetryAfterSeconds) * time.Second, Message: refusal.Message}
	}
	return err
}
