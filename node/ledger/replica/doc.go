// Package replica keeps a ledger on this machine's disk: a Writer appends to the
// publisher's, a Follower keeps a verified copy of it. Both are a Ledger, which
// answers from that copy: who published which image, and the proof.
//
// It may import ledger, server, durable and turn, and no other part of a node; nodes
// and pyrsia's commands call it. It needs the locks and memory maps of Linux.
package replica
