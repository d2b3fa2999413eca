package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/containerd/criconfig"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// askedTime bounds the question to each mirror.
const askedTime = 2 * time.Second

// asked are what mirrors say that containerd has asked them for, by their URL. Each
// is asked once.
type asked map[string]client.Asked

// by says when containerd last asked the mirror for the registries of one folder.
func (a asked) by(ctx context.Context, state containerd.State) string {
	if state.Mode == "" || state.Mirror == containerd.Closed {
		return "-"
	}
	said, known := a[state.Mirror]
	if !known {
		ctx, cancel := context.WithTimeout(ctx, askedTime)
		defer cancel()
		said, _ = asking(state.Mirror).Asked(ctx) // none: it does not run, or is of an earlier version
		a[state.Mirror] = said
	}
	registry, err := ledger.CanonicalRegistry(criconfig.RegistryOf(state.Registry))
	if said.Since.IsZero() || err != nil {
		return "not known"
	}
	if at, ok := said.Registries[registry]; ok {
		return fmt.Sprintf("%s ago", max(0, time.Since(at)).Round(time.Second))
	}
	return fmt.Sprintf("not in %s", max(0, time.Since(said.Since)).Round(time.Second))
}
