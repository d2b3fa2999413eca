package attacks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/hack/internal/rig"
	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The thief of a retired key. A publisher has rotated its signing key, as after an
// employee has left. That employee still has the old key, and runs one peer. The
// promise (SECURITY.md, "Signing keys"): no mirror that has seen the rotation
// serves anything that the thief publishes, or stops following the publisher.
func TestTakeover(t *testing.T) {
	r := network(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	signingKey := filepath.Join(r.Dir, "signing.key")
	data, err := os.ReadFile(signingKey)
	if err != nil {
		t.Fatal(err)
	}
	oldKey := string(data)
	newKey, newVkey, err := ledger.GenerateKey("rig.example/ledger")
	if err != nil {
		t.Fatal(err)
	}

	publishNew(ctx, t, r, "alpine:1")
	pinnedOld, err := r.StartMirror(ctx, "mirror-of-the-old-key")
	if err != nil {
		t.Fatal(err)
	}
	t.Log("The publisher rotates its key: for a while both sign, and then the new one alone.")
	for _, keys := range []string{oldKey + "\n" + newKey, newKey} {
		if err := r.Publisher.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(signingKey, []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.Publisher.Start(ctx); err != nil {
			t.Fatal(err)
		}
		height := publishNew(ctx, t, r, fmt.Sprintf("alpine:%d", 2+strings.Count(keys, "\n")))
		if err := pinnedOld.AwaitBlock(ctx, height); err != nil {
			t.Fatal(err)
		}
	}
	pinnedNew, err := r.StartMirror(ctx, "mirror-of-the-new-key", "--ledger-key", newVkey)
	if err != nil {
		t.Fatal(err)
	}
	mirrors := []*rig.Node{pinnedOld, pinnedNew}
	t.Log("Two mirrors follow: one was told the old key and has seen the rotation, one was told the new key.")

	thief := takeOver(ctx, t, r, oldKey, mirrors)
	t.Log("The thief waits for 25 seconds.")
	served := map[*rig.Node]bool{}
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); <-time.After(250 * time.Millisecond) {
		for _, m := range mirrors {
			if !served[m] && serves(ctx, m, "evil", "1") {
				served[m] = true
				t.Errorf("BROKEN: %s serves the thief's image evil:1, which the publisher never published", m.Name)
			}
		}
	}
	for _, m := range mirrors {
		if !served[m] {
			t.Logf("%s serves nothing of the thief's.", m.Name)
		}
	}

	height := publishNew(ctx, t, r, "alpine:4")
	t.Log("The publisher publishes alpine:4.")
	for _, m := range mirrors {
		followed := false
		for end := time.Now().Add(30 * time.Second); !followed && time.Now().Before(end); <-time.After(250 * time.Millisecond) {
			followed = serves(ctx, m, "alpine", "4")
		}
		if !followed {
			t.Errorf("BROKEN: %s does not follow the publisher any more: it does not have block %d, alpine:4", m.Name, height)
		} else {
			t.Logf("%s follows the publisher: it serves alpine:4.", m.Name)
		}
		report(ctx, t, m)
	}
	if err := thief.Stop(); err != nil {
		t.Error(err)
	}
}

// takeOver does what the thief does, and returns his node.
func takeOver(ctx context.Context, t *testing.T, r *rig.Rig, oldKey string, mirrors []*rig.Node) *rig.Node {
	t.Helper()
	t.Log("The thief copies the public ledger, at the publisher's open port.")
	source := client.New("http://"+r.Publisher.Open, http.DefaultClient)
	entries, err := source.ReadEntries(ctx, 0, blocks(ctx, t, source))
	if err != nil {
		t.Fatal(err)
	}
	stolen, stolenVkey, err := ledger.GenerateKey("rig.example/ledger")
	if err != nil {
		t.Fatal(err)
	}
	handOver, err := (&ledger.RotateKey{
		Type: ledger.TypeRotateKey, Version: 1, Previous: r.Key, Key: stolenVkey, Time: time.Now().UTC().Truncate(time.Second),
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("He appends block %d: the old key hands the ledger over to a key of his own. He signs it with both.", len(entries))
	folder := filepath.Join(r.Dir, "thief", "data", "ledger")
	writeLedger(t, folder, append(entries, handOver), oldKey, stolen)

	keyFile := filepath.Join(r.Dir, "thief.key")
	if err := os.WriteFile(keyFile, []byte(stolen), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--role", "Publisher", "--signing-key", keyFile, "--upstream", "docker.io=http://" + r.Registry.Addr}
	for _, m := range mirrors {
		args = append(args, "--bootstrap", m.Peer)
	}
	thief, err := r.StartNode(ctx, "thief", args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("With it he runs an ordinary node, and joins the network by the mirrors' addresses.")
	for i := 1; i <= 4; i++ { // so that his ledger is the larger one
		push(ctx, t, r, fmt.Sprintf("evil:%d", i))
		publishAt(ctx, t, thief, fmt.Sprintf("docker.io/library/evil:%d", i))
	}
	t.Log("He publishes images of his own: evil:1 to evil:4.")
	return thief
}

// blocks is how many blocks a ledger has, as its checkpoint says.
func blocks(ctx context.Context, t *testing.T, source *client.Client) int {
	t.Helper()
	signed, err := source.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	c, err := torchwood.ParseCheckpoint(text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return int(c.N)
}

// hashes are the stored hashes of a tree. It implements tlog.HashReader.
type hashes []tlog.Hash

// ReadHashes implements tlog.HashReader.
func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = h[x]
	}
	return out, nil
}

// writeLedger writes a ledger of fewer than 256 blocks as c2sp.org/tlog-tiles says,
// and the proof of the last block as the publisher's program keeps it. It does not
// check whether the keys may sign it.
func writeLedger(t *testing.T, folder string, entries [][]byte, skeys ...string) {
	t.Helper()
	var tree hashes
	var bundle []byte
	for i, e := range entries {
		more, err := tlog.StoredHashes(int64(i), e, tree)
		if err != nil {
			t.Fatal(err)
		}
		tree = append(tree, more...)
		if bundle, err = torchwood.AppendTileEntry(bundle, e); err != nil {
			t.Fatal(err)
		}
	}
	size := int64(len(entries))
	root, err := tlog.TreeHash(size, tree)
	if err != nil {
		t.Fatal(err)
	}
	var signers []note.Signer
	for _, skey := range skeys {
		signer, _, err := ledger.NewSigner(skey)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, signer)
	}
	text := torchwood.Checkpoint{Origin: signers[0].Name(), Tree: tlog.Tree{N: size, Hash: root}}.String()
	checkpoint, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"checkpoint": checkpoint,
		torchwood.TilePath(tlog.Tile{H: torchwood.TileHeight, L: -1, N: 0, W: int(size)}): bundle,
	}
	for _, tile := range tlog.NewTiles(torchwood.TileHeight, 0, size) {
		if files[torchwood.TilePath(tile)], err = tlog.ReadTileData(tile, tree); err != nil {
			t.Fatal(err)
		}
	}
	proof, err := tlog.ProveRecord(size, size-1, tree)
	if err != nil {
		t.Fatal(err)
	}
	files["rotations.json"], err = json.Marshal([]ledger.Rotation{{
		Entry: string(entries[size-1]), Proof: string(torchwood.FormatProof(size-1, proof, checkpoint)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func push(ctx context.Context, t *testing.T, r *rig.Rig, image string) {
	t.Helper()
	content, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push(ctx, image, content); err != nil {
		t.Fatal(err)
	}
}

// publishNew pushes an image to the upstream and has the publisher publish it.
func publishNew(ctx context.Context, t *testing.T, r *rig.Rig, image string) (height int64) {
	t.Helper()
	push(ctx, t, r, image)
	return publishAt(ctx, t, r.Publisher, "docker.io/library/"+image)
}

func publishAt(ctx context.Context, t *testing.T, n *rig.Node, image string) (height int64) {
	t.Helper()
	resolved, err := n.Control.Resolve(ctx, control.ResolveRequest{Image: image})
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := n.Control.Publish(ctx, control.PublishRequest{Image: image, Digest: resolved.Digest})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Block != nil {
			return resp.Block.Height
		}
	}
}

// serves tells whether a mirror serves a tag.
func serves(ctx context.Context, m *rig.Node, name, tag string) bool {
	return rig.Get(ctx, fmt.Sprintf("http://%s/v2/library/%s/manifests/%s", m.Mirror, name, tag)) == nil
}

// report checks that a mirror has kept what it has refused, says so, and serves.
func report(ctx context.Context, t *testing.T, m *rig.Node) {
	t.Helper()
	if err := rig.Get(ctx, "http://"+m.Open+"/readyz"); err != nil {
		t.Errorf("BROKEN: %s is not ready: %v", m.Name, err)
	}
	resp, err := http.Get("http://" + m.Open + "/api/v1/evidence")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var evidence []struct{ Kind, Message string }
	if err := json.Unmarshal(data, &evidence); err != nil {
		t.Fatal(err)
	}
	kept := false
	for _, e := range evidence {
		t.Logf("Evidence at %s: %s: %s", m.Name, e.Kind, e.Message)
		kept = kept || e.Kind == "RetiredKey"
	}
	status, err := m.Control.Status(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	raised := false
	for _, a := range status.Alarms {
		t.Logf("Alarm at %s: %s", m.Name, a.Kind)
		raised = raised || a.Kind == "LedgerKeyMisused"
	}
	if !kept || !raised {
		t.Errorf("BROKEN: %s tells nobody of the attempt: evidence kept %v, alarm raised %v", m.Name, kept, raised)
	}
}
