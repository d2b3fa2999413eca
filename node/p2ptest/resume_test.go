package p2ptest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
	"github.com/pyrsia/pyrsia-operator/node/internal/pieces"
)

// verifiedOnDisk counts the whole pieces of an image's first layer that a dead
// process has left.
func verifiedOnDisk(t *testing.T, n *testnet.Node, image *testnet.Image) (count int) {
	t.Helper()
	part, err := os.ReadFile(filepath.Join(n.Dir, "store", "partial", image.Layers[0].Encoded()))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	blob := describe(t, image)
	for i := range blob.Count() {
		offset, length := blob.Range(i)
		if blob.Check(i, part[offset:offset+length]) == nil {
			count++
		}
	}
	return count
}

var described = map[string]pieces.Blob{}

func describe(t *testing.T, image *testnet.Image) pieces.Blob {
	t.Helper()
	if b, ok := described[image.Name]; ok {
		return b
	}
	d := pieces.NewDescriber()
	_, _ = d.Write(image.Content[0]) // it takes everything
	described[image.Name] = d.Blob("")
	return described[image.Name]
}

// awaitImage returns when a node knows an image.
func awaitImage(ctx context.Context, n *testnet.Node, image *testnet.Image) error {
	_, tag, _ := cut(image.Name)
	for range 2000 {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, n.Mirror("/v2/library/"+image.Repository()+"/manifests/"+tag), nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			if resp.Body.Close(); resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s does not know %s", n.Name, image.Name)
}

func goCommand(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
