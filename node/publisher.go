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
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// publisherRole is a publisher's part of a node.
type publisherRole struct {
	*publish.Publisher
	n *Node
}

// openPublisher makes the part of a publisher.
func (n *Node) openPublisher(w *replica.Writer) (role, error) {
	p, err := publish.New(publish.Config{
		Writer: w, Store: n.store,
		Upstreams: n.config.Upstreams, SecretDir: n.config.UpstreamSecrets, Private: n.config.UpstreamPrivate,
		StateFile:        filepath.Join(n.config.DataDir, "dropped.json"),
		AttachmentsEvery: n.config.AttachmentsEvery,
		Concurrency:      n.config.CopyConcurrency, Bandwidth: n.config.UpstreamLimit,
		Provide: n.announceContent,
		OnPull:  publish.OnPull{Allow: n.config.OnPullAllow, PerHour: n.config.OnPullPerHour},
		Metrics: n.registry, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, func() error { p.Close(); return nil })
	r := &publisherRole{p, n}
	switch {
	case n.config.MirrorAddr == "":
		return r, nil
	case len(n.config.OnPullAllow) == 0:
		return r, n.openClients(nil)
	default:
		return r, n.openClients(r.publishOnPull)
	}
}

// start has each new checkpoint gossiped, and uploaded what the bucket lacks. A
// publisher is ready when it starts: the ledger is its own.
func (r *publisherRole) start(run context.Context) {
	if r.n.config.Bucket != "" {
		r.n.done.Go(func() { r.n.store.Backup(run) })
	}
	r.n.done.Go(func() { r.n.spread(run) })
	r.n.setReady()
}

func (r *publisherRole) failing() map[string]standing { return nil }

// onPullWait bounds how long a client waits for a publication before it gets an
// answer to retry: container clients wait half a minute or longer.
const onPullWait = 20 * time.Second

// publishOnPull is where a pull leads to an upstream: on a publisher that was
// told to, and nowhere else.
func (r *publisherRole) publishOnPull(ctx context.Context, image ledger.Image) error {
	ctx, cancel := context.WithTimeout(ctx, onPullWait)
	defer cancel()
	err := r.Pull(ctx, image)
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
