package crash

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// workerEnv has this program be a process of the campaign, and not a test.
const workerEnv = "PYRSIA_CRASH_WORKER"

const (
	clients     = 12 // that append in parallel
	revokeEvery = 3  // blocks of a client; every other one by its digest
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(quiet) // Tessera's
	run := map[string]func(args []string) error{"publisher": publisher, "mirror": mirror}[os.Getenv(workerEnv)]
	if run == nil {
		os.Exit(m.Run())
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// say tells the test something: one write, so that a line is whole or absent. A
// process that was not heard does not go on.
func say(format string, args ...any) {
	if _, err := os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n"); err != nil {
		os.Exit(1)
	}
}

// serve serves a ledger on an address that the last process may still hold.
func serve(l *replica.Ledger, addr string) error {
	var listener net.Listener
	var err error
	for range 100 {
		if listener, err = net.Listen("tcp", addr); err == nil {
			go func() { _ = http.Serve(listener, l.Handler()) }()
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// entry is the n'th of a client's image.
func entry(client, n int) *ledger.AddArtifact {
	sum := func(part string) digest.Digest { return digest.FromString(fmt.Sprint(part, client, n)) }
	return &ledger.AddArtifact{
		Type: ledger.TypeAddArtifact, Version: 1, Artifact: imageOf(client), Digest: sum("index"),
		MediaType: "application/vnd.oci.image.index.v1+json", Size: int64(n + 1), // tells n
		Platforms: []ledger.Platform{{Platform: "linux/amd64", Digest: sum("manifest"), Config: sum("config"), Size: 1}},
		Pieces:    sum("pieces"), Upstream: "registry.example", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func imageOf(client int) string { return fmt.Sprintf("docker.io/library/client%d:1", client) }

// publisher DIR KEYFILE ADDR NEXT,NEXT,...: appends without a pause, as each of
// the clients from its next entry on, and tells of each acknowledgement.
func publisher(args []string) error {
	keys, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	ctx := context.Background()
	w, err := replica.OpenWriter(ctx, args[0], string(keys), quiet)
	if err != nil {
		return err
	}
	if err := serve(w.Ledger, args[2]); err != nil {
		return err
	}
	say("ready")
	var group sync.WaitGroup
	failed := make(chan error, clients)
	for client, s := range strings.FieldsFunc(args[3], func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		group.Go(func() {
			for ; ; n++ {
				height, err := w.Append(ctx, entry(client, n))
				if err != nil {
					failed <- err
					return
				}
				say("ack %d %d %d", client, n, height)
				if n%revokeEvery != 0 {
					continue
				}
				by, err := revoke(ctx, w, height, n/revokeEvery%2 == 1)
				if err != nil {
					failed <- err
					return
				}
				say("revoked %d %d", height, by)
			}
		})
	}
	return <-failed
}

// revoke withdraws a block, or all of its digest, and returns the block that
// names it.
func revoke(ctx context.Context, w *replica.Writer, height int64, all bool) (int64, error) {
	const reason = "the campaign"
	if !all {
		return w.Revoke(ctx, height, reason, time.Now())
	}
	e, err := w.Entry(ctx, height)
	if err != nil {
		return 0, err
	}
	if _, err := w.RevokeDigest(ctx, e.Artifact.Repository(), e.Artifact.Digest, reason, time.Now()); err != nil {
		return 0, err
	}
	by, err := w.RevokedBy(ctx, e)
	if err != nil {
		return 0, err
	}
	return by.Height, nil
}

// mirror DIR KEY SOURCE ADDR: follows a ledger without a pause.
func mirror(args []string) error {
	ctx := context.Background()
	f, err := replica.OpenFollower(ctx, args[0], args[1], quiet)
	if err != nil {
		return err
	}
	if err := serve(f.Ledger, args[3]); err != nil {
		return err
	}
	say("ready")
	source := client.New(args[2], http.DefaultClient)
	for {
		if _, err := f.Sync(ctx, source); errors.Is(err, replica.ErrForked) || errors.Is(err, replica.ErrRolledBack) {
			return err
		}
		if n := f.Refused(ledger.EvidenceBadData); n > 0 {
			return fmt.Errorf("the publisher served what its checkpoint does not commit to, %d times", n)
		}
		time.Sleep(time.Millisecond)
	}
}
