package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// Status implements control.Node.
func (n *Node) Status(ctx context.Context, since int64) (*control.Status, error) {
	// First of all: the keys and rotations that are read after it are enough for its
	// signatures.
	head, proof, err := n.ledger.HeadSince(ctx, since)
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
		Ledger: control.LedgerStatus{Key: n.ledger.Key(), Checkpoint: string(head.Signed), Consistency: ledger.EncodeHashes(proof)},
		Alarms: alarms,
	}
	for _, r := range n.ledger.Rotations() {
		s.Ledger.Rotations = append(s.Ledger.Rotations, control.Rotation(r))
	}
	for _, a := range n.host.Addrs() {
		s.Addrs = append(s.Addrs, a.String())
	}
	return s, nil
}

// Receipts implements control.Node.
func (n *Node) Receipts(_ context.Context, since int64) (*control.Receipts, error) {
	if n.clients == nil {
		return &control.Receipts{}, nil
	}
	return &control.Receipts{Receipts: n.clients.receipts.Since(since, control.MaxReceipts)}, nil
}

// Find implements control.Node.
func (n *Node) Find(ctx context.Context, req control.FindRequest) (*control.FindResponse, error) {
	image, err := ledger.ParseImage(req.Image)
	if err == nil {
		err = ledger.CheckDigest(digest.Digest(req.Digest))
	}
	if err != nil {
		return nil, &control.Error{Reason: control.ReasonInvalidRequest, Message: err.Error()}
	}
	e, err := n.ledger.Find(ctx, image, digest.Digest(req.Digest))
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, &control.Error{Reason: control.ReasonNotOnLedger,
			Message: fmt.Sprintf("no block of the ledger records %s@%s", image, req.Digest)}
	}
	if err != nil {
		return nil, err
	}
	block, err := n.provenBlock(ctx, e.Height)
	if err != nil {
		return nil, err
	}
	resp := &control.FindResponse{Block: *block}
	revoked, err := n.ledger.RevokedBy(ctx, e)
	if err == nil && revoked != nil {
		resp.Revocation, err = n.provenBlock(ctx, revoked.Height)
	}
	if err != nil {
		return nil, err
	}
	all, err := n.ledger.Withdrawal(ctx, image.Name(), e.Artifact.Digest)
	if err == nil && all != nil {
		resp.Withdrawal, err = n.provenBlock(ctx, all.Height)
	}
	return resp, err
}

func (n *Node) provenBlock(ctx context.Context, height int64) (*control.Block, error) {
	e, proof, err := n.ledger.Block(ctx, height)
	if err != nil {
		return nil, err
	}
	return &control.Block{Height: e.Height, Entry: string(e.Data), Proof: string(proof)}, nil
}
