package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
)

// TestClusterUpgrade upgrades Kubernetes below what the demo has made. The cluster
// stays.
func TestClusterUpgrade(t *testing.T) {
	releases := strings.Fields(os.Getenv("PYRSIA_UPGRADES"))
	if len(releases) == 0 {
		t.Skip("needs a cluster of an older Kubernetes: run 'make test-upgrade-cluster'")
	}
	t.Setenv("KUBERNETES", releases[0])
	w := newEnv(t)
	for _, s := range steps.Upgrades(append(releases[1:], "")...) {
		run(t, w, s)
	}
	t.Run("Nothing is written in a steady state", func(t *testing.T) { steady(t, w) })
}
