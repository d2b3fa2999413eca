// Package quorum decides how a ledger survives its publisher: what a storing
// member promises, stages and cosigns, and how a publisher appends, comes back
// and changes the list of members. It imports nothing of the project; tlogmirror
// and the publisher call it. docs/consensus.md has the claims and their tests.
//
// Everything here is a pure transition without I/O, clock or goroutine, so that
// production and the simulation in this package's tests run the same code. One
// rule binds each caller: the new State is durable before the reply, or a
// signature that it allows, leaves the process. A caller that cannot make it
// durable drops the reply and keeps the old State.
package quorum
