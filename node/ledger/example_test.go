package ledger_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// A proof that was saved is checked with nothing but the ledger's key.
func ExampleBundle_Verify() {
	p := newPublisher()
	defer p.stop()
	entry, tlogProof, err := p.Block(context.Background(), 0)
	if err != nil {
		log.Fatal(err)
	}
	saved := ledger.Bundle{Entry: string(entry.Data), Proof: string(tlogProof)} // as 'pyrsia proof' writes it

	verifier, err := ledger.NewVerifier(p.key)
	if err != nil {
		log.Fatal(err)
	}
	block, err := saved.Verify(verifier, digest.FromString("alpine"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("block %d of %s records %s\n", block.Height, block.Checkpoint.Origin, block.Artifact.Artifact)

	saved.Entry = saved.Entry[:len(saved.Entry)-1] + " }"
	if _, err := saved.Verify(verifier, digest.FromString("alpine")); err != nil {
		fmt.Println("what was altered is refused")
	}
	// Output:
	// block 0 of ledger.example/demo records docker.io/library/alpine:3.20
	// what was altered is refused
}

// The whole log is read from any node, and verified on the way.
func ExampleVerifyCheckpoint() {
	p := newPublisher()
	defer p.stop()
	ctx := context.Background()

	node := client.New(p.url, p.server.Client())
	verifier, err := ledger.NewVerifier(p.key)
	if err != nil {
		log.Fatal(err)
	}
	signed, err := node.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		log.Fatal(err)
	}
	checkpoint, err := ledger.VerifyCheckpoint(verifier, signed)
	if err != nil {
		log.Fatal(err)
	}
	reader, err := torchwood.NewClient(node)
	if err != nil {
		log.Fatal(err)
	}
	for height, data := range reader.Entries(ctx, checkpoint.Tree, 0) {
		entry, err := ledger.ReadEntry(height, data)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(height, entry.Artifact.Artifact)
	}
	if err := reader.Err(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0 docker.io/library/alpine:3.20
	// 1 docker.io/library/busybox:1.37
}

// publisher is one whose ledger has two images.
type publisher struct {
	*replica.Writer
	url, key, dir string
	server        *httptest.Server
}

func newPublisher() *publisher {
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
	for _, name := range []string{"alpine:3.20", "busybox:1.37"} {
		repository, _, _ := strings.Cut(name, ":")
		_, err = w.Append(context.Background(), &ledger.AddArtifact{
			Type: ledger.TypeAddArtifact, Version: 1, Artifact: "docker.io/library/" + name, Digest: digest.FromString(repository),
			MediaType: "application/vnd.oci.image.index.v1+json", Size: 1,
			Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: digest.FromString("manifest"), Config: digest.FromString("config"), Size: 1}},
			Pieces:    digest.FromString("pieces"), Upstream: "registry-1.docker.io", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	s := httptest.NewServer(w.Handler())
	return &publisher{w, s.URL, key, dir, s}
}

func (p *publisher) stop() {
	p.server.Close()
	_ = p.Close()
	_ = os.RemoveAll(p.dir)
}
