package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// OnMiss is asked for an image that is not on the ledger, before its pull is
// refused. It returns nil when the image is there by now, ledger.ErrNotFound
// when it will not be, and a *LaterError when the client should ask again.
type OnMiss func(ctx context.Context, image ledger.Image) error

// LaterError refuses a pull for now.
type LaterError struct {
	After   time.Duration
	Message string
}

func (e *LaterError) Error() string { return e.Message }

// tag finds what a tag points to, by the ledger.
func (m *Mirror) tag(ctx context.Context, image ledger.Image, describe bool) (resolved, error) {
	v, err := m.resolver.tag(ctx, image, describe)
	if !errors.Is(err, errNotOnLedger) || m.OnMiss == nil {
		return v, err
	}
	err = m.OnMiss(ctx, image)
	if errors.Is(err, ledger.ErrNotFound) {
		return resolved{}, errNotOnLedger
	}
	if err != nil {
		return resolved{}, err
	}
	return m.resolver.tag(ctx, image, describe)
}
