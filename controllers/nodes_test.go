package controllers

import (
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// A pod that does not answer is given as much time as any once a minute only,
// until it answers: a few of them do not hold up those that do.
func TestPatienceWithSilentPods(t *testing.T) {
	now := time.Now()
	n, ip := node(v1alpha1.RolePublisher, "publisher"), "192.0.2.1"
	nodes := NewNodes(nil, nil, func() time.Time { return now })
	nodes.clients[nodeAddress{uid: n.UID, ip: ip}] = &pooledClient{}
	poll := func(want time.Duration, answers bool) {
		t.Helper()
		got := nodes.patience(n, ip)
		if got != want {
			t.Errorf("it may take %s, want %s", got, want)
		}
		nodes.answered(n, ip, got, answers)
	}
	poll(pollTimeout, false)
	poll(pollTimeoutSilent, false)
	now = now.Add(pollSilentAgain / 2)
	poll(pollTimeoutSilent, false)
	now = now.Add(pollSilentAgain / 2)
	poll(pollTimeout, false)
	poll(pollTimeoutSilent, true)
	poll(pollTimeout, true)
}

// A publisher for which all workers wait at once still answers the next one,
// which may bring a withdrawal.
func TestWorkersFitIntoTheControlPort(t *testing.T) {
	if workers := publishAtOnce + nodesAtOnce + 4 + 4; 2*workers > control.OperatorConnections {
		t.Errorf("%d workers, and a node takes %d connections from the operator's address", workers, control.OperatorConnections)
	}
}
