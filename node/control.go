package node

import (
	"context"
	"fmt"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Status implements control.Node.
func (n *Node) Status(ctx context.Context, since int64) (*control.Status, error) {
	proof, err := n.ledger.Consistency(ctx, since)
	if err != nil {
		return nil, err
	}
	alarms, err := n.alarms(time.Now())
	if err != nil {
		return nil, err
	}
	s := &control.Status{
		Role: n.config.Role, Version: Version,
		PeerID: n.host.ID().String(), Peers: len(n.host.Peers()),
		Ledger: control.LedgerStatus{Key: n.ledger.Key(), Consistency: ledger.EncodeHashes(proof)},
		Alarms: alarms,
	}
	for _, r := range n.ledger.Rotations() {
		s.Ledger.Rotations = append(s.Ledger.Rotations, control.Rotation(r))
	}
	for _, a := range n.host.Addrs() {
		s.Addrs = append(s.Addrs, a.String())
	}
	if head, ok := n.ledger.Head(); ok {
		s.Ledger.Checkpoint = string(head.Signed)
	}
	return s, nil
}

// Resolve implements control.Node.
func (n *Node) Resolve(ctx context.Context, req control.ResolveRequest) (*control.ResolveResponse, error) {
	if n.publisher == nil {
		return nil, n.notPublisher()
	}
	return n.publisher.Resolve(ctx, req)
}

// Publish implements control.Node.
func (n *Node) Publish(ctx context.Context, req control.PublishRequest) (*control.PublishResponse, error) {
	if n.publisher == nil {
		return nil, n.notPublisher()
	}
	return n.publisher.Publish(ctx, req)
}

// Receipts implements control.Node.
func (n *Node) Receipts(_ context.Context, since int64) (*control.Receipts, error) {
	if n.receipts == nil {
		return &control.Receipts{}, nil // a publisher serves no container clients
	}
	return &control.Receipts{Receipts: n.receipts.Since(since, control.MaxReceipts)}, nil
}

// List implements control.Node.
func (n *Node) List(ctx context.Context, req control.ListRequest) (*control.ListResponse, error) {
	if n.publisher == nil {
		return nil, n.notPublisher()
	}
	return n.publisher.List(ctx, req)
}

// Revoke implements control.Node.
func (n *Node) Revoke(ctx context.Context, req control.RevokeRequest) (*control.RevokeResponse, error) {
	if n.publisher == nil {
		return nil, n.notPublisher()
	}
	return n.publisher.Revoke(ctx, req)
}

// Drop implements control.Node.
func (n *Node) Drop(ctx context.Context, req control.DropRequest) (*control.DropResponse, error) {
	if n.publisher == nil {
		return nil, n.notPublisher()
	}
	return n.publisher.Drop(ctx, req)
}

func (n *Node) notPublisher() error {
	return &control.Error{Reason: control.ReasonNotPublisher,
		Message: fmt.Sprintf("this node is a %s: only a publisher asks upstream registries", n.config.Role)}
}
