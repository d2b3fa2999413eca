package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/datafolder"
)

// initDataCommand prepares a host path for a node that runs without
// privileges: the one thing that needs root there.
func initDataCommand() *cobra.Command {
	var owner, claim string
	cmd := &cobra.Command{
		Use:    "init-data DIR... --owner UID:GID [--claim NAMESPACE/NAME/UID]",
		Short:  "Give a node's data folder, and folders in it, to the user that the node runs as, unless it is another node's",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			u, g, _ := strings.Cut(owner, ":")
			uid, err1 := strconv.Atoi(u)
			gid, err2 := strconv.Atoi(g)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("%w: --owner UID:GID", errUsage)
			}
			for i, dir := range args {
				if i == 0 && claim != "" { // first: what is another's is not given
					if err := datafolder.Claim(dir, claim); err != nil {
						return err
					}
				}
				if err := giveFolder(dir, uid, gid); err != nil {
					return fmt.Errorf("preparing the data folder: %w", err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&owner, "owner", "65532:65532", "UID:GID")
	cmd.Flags().StringVar(&claim, "claim", "", "whose the first folder is from now on; exit status 5 if it is another namespace's")
	return cmd
}

// giveFolder makes a folder its user's, and no other one: the user may have put a
// link in its place, which root must not follow.
func giveFolder(dir string, uid, gid int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("%w: is it a link? Remove it", err)
	}
	return errors.Join(f.Chown(uid, gid), f.Close())
}

// nodeData is all that a node, or the socket proxy before it, makes in its data folder.
var nodeData = []string{"ledger", "store", "frontend", "identity.key", "peers.json", "receipts.json", datafolder.OwnerFile}

// removeDataCommand removes a node's data from a host path when the node is
// deleted: another ledger may be followed there next. What else is in that
// folder is the user's, and what another node has claimed since is that node's.
func removeDataCommand() *cobra.Command {
	var claim string
	cmd := &cobra.Command{
		Use:    "remove-data DIR [--claim NAMESPACE/NAME/UID]",
		Short:  "Remove a node's data from its data folder, and nothing else",
		Hidden: true,
		Args:   exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if claim != "" {
				// What cannot be read is of the node's own making.
				if owner, err := datafolder.Owner(args[0]); err == nil && owner != "" && owner != claim {
					fmt.Fprintf(cmd.ErrOrStderr(), "The data folder belongs to %s by now: it stays.\n", owner)
					return nil
				}
			}
			for _, name := range nodeData {
				if err := os.RemoveAll(filepath.Join(args[0], name)); err != nil {
					return fmt.Errorf("removing the node's data: %w", err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&claim, "claim", "", "whose data it is; what another one has claimed stays")
	return cmd
}
