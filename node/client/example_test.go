package client_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// What the ledger says of an image, and the proof of it.
func ExampleClient_Find() {
	url, key, stop := exampleNode()
	defer stop()
	ctx := context.Background()

	node := client.New(url, http.DefaultClient)
	ref, err := ledger.ParseReference("alpine:3.20") // or a digest, in any way in which clients show it
	if err != nil {
		log.Fatal(err)
	}
	blocks, err := node.Find(ctx, ref)
	if err != nil {
		log.Fatal(err)
	}
	proof, _, err := node.Proof(ctx, blocks[0].Height)
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := ledger.NewVerifier(key) // which was pinned, and not asked for
	if err != nil {
		log.Fatal(err)
	}
	block, err := proof.Verify(verifier, digest.FromString("alpine"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is block %d of %s\n", block.Artifact.Artifact, block.Height, block.Checkpoint.Origin)
	// Output: docker.io/library/alpine:3.20 is block 0 of ledger.example/demo
}

// exampleNode is a node whose ledger has one image.
func exampleNode() (url, key string, stop func()) {
	dir, err := os.MkdirTemp("", "pyrsia-")
	if err != nil {
		log.Fatal(err)
	}
	signingKey, key, err := ledger.GenerateKey("ledger.example/demo")
	if err != nil {
		log.Fatal(err)
	}
	w, err := replica.OpenWriter(context.Background(), dir, signingKey, slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	_, err = w.Append(context.Background(), &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/alpine:3.20", Digest: digest.FromString("alpine"),
		MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: digest.FromString("manifest"), Config: digest.FromString("config"), Size: 1}},
		Pieces:    digest.FromString("pieces"), Upstream: "registry-1.docker.io", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	if err != nil {
		log.Fatal(err)
	}
	s := httptest.NewServer(w.Handler())
	return s.URL, key, func() {
		s.Close()
		_ = w.Close()
		_ = os.RemoveAll(dir)
	}
}
