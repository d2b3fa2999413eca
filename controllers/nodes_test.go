package controllers

import (
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
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
