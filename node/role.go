package node

import (
	"context"

	"github.com/pyrsia/pyrsia-operator/node/control"
)

// role is the part of a node that a publisher or a mirror has alone.
type role interface {
	publishing
	// start starts the role's own work, which ends with run.
	start(run context.Context)
	// failing are the sources of the ledger that failed the last time, by name.
	failing() map[string]standing
}

// publishing is what the operator asks a publisher for (control.Node).
type publishing interface {
	Resolve(context.Context, control.ResolveRequest) (*control.ResolveResponse, error)
	Publish(context.Context, control.PublishRequest) (*control.PublishResponse, error)
	List(context.Context, control.ListRequest) (*control.ListResponse, error)
	Revoke(context.Context, control.RevokeRequest) (*control.RevokeResponse, error)
	Restore(context.Context, control.RestoreRequest) (*control.RestoreResponse, error)
	Drop(context.Context, control.DropRequest) (*control.DropResponse, error)
}

// notPublishing is a mirror's answer to it.
type notPublishing struct{}

var errNotPublisher = &control.Error{Reason: control.ReasonNotPublisher,
	Message: "this node is a " + string(control.Mirror) + ": only a publisher asks upstream registries"}

func (notPublishing) Resolve(context.Context, control.ResolveRequest) (*control.ResolveResponse, error) {
	return nil, errNotPublisher
}

func (notPublishing) Publish(context.Context, control.PublishRequest) (*control.PublishResponse, error) {
	return nil, errNotPublisher
}

func (notPublishing) List(context.Context, control.ListRequest) (*control.ListResponse, error) {
	return nil, errNotPublisher
}

func (notPublishing) Revoke(context.Context, control.RevokeRequest) (*control.RevokeResponse, error) {
	return nil, errNotPublisher
}

func (notPublishing) Restore(context.Context, control.RestoreRequest) (*control.RestoreResponse, error) {
	return nil, errNotPublisher
}

func (notPublishing) Drop(context.Context, control.DropRequest) (*control.DropResponse, error) {
	return nil, errNotPublisher
}
