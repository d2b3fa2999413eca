package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// A node that owns its data folder may put a link in place of what root is to
// give to it: root does not follow it.
func TestInitDataFollowsNoLink(t *testing.T) {
	data, host := t.TempDir(), t.TempDir()
	owner := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	if err := os.Symlink(host, filepath.Join(data, "frontend")); err != nil {
		t.Fatal(err)
	}
	cmd := initDataCommand()
	cmd.SetArgs([]string{"--owner", owner, data, filepath.Join(data, "frontend")})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "is it a link") {
		t.Errorf("a link was followed: %v", err)
	}
	if err := os.Remove(filepath.Join(data, "frontend")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a folder is made, and given again
		if err := cmd.Execute(); err != nil {
			t.Error(err)
		}
	}
}

// A folder that another namespace's mirror has is neither given away nor emptied:
// by the set-up container of the second one, and by its clean-up.
func TestFolderOfAnotherMirrorIsLeftAlone(t *testing.T) {
	data, owner := t.TempDir(), fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	set := func(claim string) (int, string) {
		status, _, stderr := pyrsia(t, "init-data", "--owner", owner, "--claim", claim, data, filepath.Join(data, "frontend"))
		return status, stderr
	}
	if status, stderr := set("a-b/c/1"); status != 0 {
		t.Fatal(stderr)
	}
	secret := filepath.Join(data, "frontend", portproof.SecretFile)
	if err := os.WriteFile(secret, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, stderr := set("a/b-c/2")
	if status != control.ExitFolderTaken || !strings.Contains(stderr, "belongs to the PyrsiaNode a-b/c (UID 1)") {
		t.Errorf("status %d: %s", status, stderr)
	}
	for _, other := range []string{"a/b-c/2", "a-b/c/0"} { // also of one that was there before it
		status, _, stderr = pyrsia(t, "remove-data", "--claim", other, data)
		if _, err := os.Stat(secret); status != 0 || err != nil || !strings.Contains(stderr, "a-b/c/1") {
			t.Errorf("the clean-up of %s: status %d, %v: %s", other, status, err, stderr)
		}
	}
	if status, _, stderr := pyrsia(t, "remove-data", "--claim", "a-b/c/1", data); status != 0 {
		t.Error(stderr)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if status, stderr := set("a/b-c/2"); status != 0 {
		t.Errorf("a folder that was left: %s", stderr)
	}
}
