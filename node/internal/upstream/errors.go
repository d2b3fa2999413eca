package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Kind is why an upstream did not deliver.
type Kind int

// The kinds of failure.
const (
	Unavailable  Kind = iota // cannot be reached, or answers 5xx
	NotFound                 // has no such image
	Unauthorized             // needs a login
	Private                  // only the login can read it, and the settings do not name it
	RateLimited              // asks to wait
	Invalid                  // sent something that is not what it says
	NoSpace                  // this node's disk has no room for the image
)

// Error is a failure of an upstream registry.
type Error struct {
	Kind Kind
	Err  error
	// RetryAfter is how long the upstream is to be left alone; 0 if it is not known.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the error that was met.
func (e *Error) Unwrap() error { return e.Err }

// Cause says in few words what went wrong, without the request that met it.
func (e *Error) Cause() string {
	if t, ok := errors.AsType[*transport.Error](e.Err); ok {
		if len(t.Errors) > 0 && t.Errors[0].Message != "" {
			return fmt.Sprintf("%d: %.200s", t.StatusCode, t.Errors[0].Message)
		}
		return fmt.Sprintf("%d %s", t.StatusCode, http.StatusText(t.StatusCode))
	}
	if u, ok := errors.AsType[*url.Error](e.Err); ok {
		return u.Err.Error()
	}
	return e.Err.Error()
}

func invalid(format string, args ...any) error {
	return &Error{Kind: Invalid, Err: fmt.Errorf(format, args...)}
}

// classify says why the upstream did not deliver.
func classify(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if known, ok := errors.AsType[*Error](err); ok {
		return &Error{Kind: known.Kind, Err: err, RetryAfter: known.RetryAfter}
	}
	e := &Error{Kind: Unavailable, Err: err}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		e.Kind = Invalid
		return e
	}
	terr, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return e
	}
	switch terr.StatusCode {
	case http.StatusNotFound:
		e.Kind = NotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = Unauthorized
	case http.StatusTooManyRequests:
		e.Kind = RateLimited
	}
	return e
}
