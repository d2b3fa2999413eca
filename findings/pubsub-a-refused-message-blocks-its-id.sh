#!/usr/bin/env bash
# go-libp2p-pubsub: a message that a validator has refused keeps out every later message with its ID.
#
# The good guess: a validator decides about a message, and "seen" means accepted. An application names its messages by what they are
# about (a height, a hash of the signed text) so that copies cost nothing; if a forged copy comes first, the validator refuses it, and the
# honest one that comes next is delivered.
#
# What really happens: the ID is remembered before the validators run, and stays remembered when they refuse. The honest message that
# comes later, from another peer too, is dropped as a duplicate: its validator is never called, it is not delivered and not handed on, until
# the ID expires (two minutes by default). So an ID must be made of everything that decides about acceptance, signatures included: whoever
# can make a message with the same ID that is refused can silence the honest one. An ID of the whole message is safe, and makes
# each variant cost a look.
#
# Shown with a message whose first byte says whether it is honest, and whose ID is the rest. The second part is the control: the same
# two messages, the honest one first.
#
# Versions: go-libp2p-pubsub v0.19.0 with go-libp2p v0.51.0, Go 1.26. Date: 2026-11-27.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
)

// join joins the topic; refused messages are counted.
func join(ctx context.Context, looks *atomic.Int64) (host.Host, *pubsub.Topic, *pubsub.Subscription) {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	check(err)
	ps, err := pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithFloodPublish(true), // a message does not wait for the mesh
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return string(m.GetData()[1:]) }))
	check(err)
	if looks != nil {
		check(ps.RegisterTopicValidator("news", func(_ context.Context, _ peer.ID, m *pubsub.Message) bool {
			looks.Add(1)
			return m.Data[0] == 'h' // honest
		}))
	}
	topic, err := ps.Join("news")
	check(err)
	sub, err := topic.Subscribe()
	check(err)
	return h, topic, sub
}

// try has two peers send one message each, and tells which the third one got.
func try(first, second string) (got []string, looks int64) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var asked atomic.Int64
	h, _, sub := join(ctx, &asked)
	defer h.Close()
	for _, message := range []string{first, second} {
		sender, topic, _ := join(ctx, nil)
		defer sender.Close()
		check(sender.Connect(ctx, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}))
		for deadline := time.Now().Add(10 * time.Second); len(topic.ListPeers()) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				log.Fatal("the peers do not find each other")
			}
		}
		time.Sleep(2 * time.Second) // for the two to agree on a stream
		check(topic.Publish(ctx, []byte(message)))
		time.Sleep(3 * time.Second) // for it to arrive, by the next heartbeats if need be
	}
	for {
		short, done := context.WithTimeout(ctx, 200*time.Millisecond)
		m, err := sub.Next(short)
		done()
		if err != nil {
			return got, asked.Load()
		}
		got = append(got, string(m.Data))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	got, looks := try("f block 7", "h block 7")
	fmt.Printf("forged first, honest from another peer 3 s later: delivered %q, the validator was called %d time(s)\n", got, looks)
	got, looks = try("h block 7", "f block 7")
	fmt.Printf("honest first:                                     delivered %q, the validator was called %d time(s)\n", got, looks)
}
GO
cat >go.mod <<'MOD'
module finding

go 1.26
MOD
go get github.com/libp2p/go-libp2p-pubsub@v0.19.0 github.com/libp2p/go-libp2p@v0.51.0 >/dev/null 2>&1
go list -m github.com/libp2p/go-libp2p-pubsub github.com/libp2p/go-libp2p
go mod tidy >/dev/null 2>&1
go run . | tee out
diff out - <<'WANT'
forged first, honest from another peer 3 s later: delivered [], the validator was called 1 time(s)
honest first:                                     delivered ["h block 7"], the validator was called 1 time(s)
WANT
