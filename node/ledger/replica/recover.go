package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// stateFile is where Tessera's POSIX driver keeps the tree that is integrated:
// it may be ahead of the checkpoint.
const stateFile = ".state/treeState"

// treeState is the content of stateFile.
type treeState struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

func (s treeState) tree() (t tlog.Tree, err error) {
	if len(s.Root) != tlog.HashSize || s.Size > 1<<62 {
		return t, fmt.Errorf("%s: a root of %d bytes at size %d", stateFile, len(s.Root), s.Size)
	}
	return tlog.Tree{N: int64(s.Size), Hash: tlog.Hash(s.Root)}, nil
}

// readState reads the integrated tree; ok is false if there is none.
func (d dir) readState() (t tlog.Tree, ok bool, err error) {
	data, err := d.ReadEndpoint(context.Background(), stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return t, false, nil
	}
	if err != nil {
		return t, false, fmt.Errorf("reading %s: %w", stateFile, err)
	}
	var s treeState
	if err := json.Unmarshal(data, &s); err != nil {
		return t, false, fmt.Errorf("%s: %w", stateFile, err)
	}
	t, err = s.tree()
	return t, err == nil, err
}

func (d dir) writeState(t tlog.Tree) error {
	data, err := json.Marshal(treeState{Size: uint64(t.N), Root: t.Hash[:]})
	if err != nil {
		return fmt.Errorf("writing %s: %w", stateFile, err)
	}
	name := filepath.Join(d.path, stateFile)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", stateFile, err)
	}
	// Crash before: the state is as bad as it was, and is written at the next
	// start again.
	return durable.WriteFile(name, data)
}

// recoverState makes the integrated tree fit the signed checkpoint, from which
// a writer goes on: after a crash, on a disk that was copied from a mirror, or
// on a damaged one. What is integrated beyond the checkpoint is kept if it is
// whole: its appends were not acknowledged, but their blocks may be asked for.
func (w *Writer) recoverState(ctx context.Context) error {
	head, signed := w.Head()
	state, ok, err := w.dir.readState()
	if err == nil && ok {
		err = w.verify(ctx, state)
	}
	switch {
	case err == nil && ok:
	case !signed && ok:
		return fmt.Errorf("the ledger in %s is damaged, and has no checkpoint to go back to: %w; restore it from a mirror with 'pyrsia restore'", w.dir.path, err)
	case !signed:
		return err // nothing is there: a new ledger
	default:
		w.log.Warn("going back to the signed checkpoint", "blocks", head.Tree.N, "cause", err)
		if err := w.dir.writeState(head.Tree); err != nil {
			return err
		}
		state = head.Tree
	}
	if err := w.dir.sweep(state.N); err != nil {
		return err
	}
	return w.dir.completeEdge(state.N)
}

// completeEdge writes the last, partial tile of block hashes if it is missing:
// a mirror's copy has none of that level, and Tessera goes on from it.
func (d dir) completeEdge(size int64) error {
	t := proven{tree: tlog.Tree{N: size}}.tile(0, size/torchwood.TileWidth)
	name := filepath.Join(d.path, torchwood.TilePath(t))
	if _, err := os.Stat(name); err == nil || t.W == 0 {
		return nil
	}
	hashes, err := d.hashEntries(t)
	if err != nil {
		return fmt.Errorf("completing the ledger's edge: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("completing the ledger's edge: %w", err)
	}
	// Crash before: the tile is missing, and is written at the next start.
	return durable.WriteFile(name, hashes)
}

// sweep removes what a crash left at the right edge of the tree: tiles that are
// wider than it, whose blocks were never integrated, and temporary files.
func (d dir) sweep(size int64) error {
	err := d.sweepFolder(d.path, isNotTemporary)
	err = errors.Join(err, d.sweepFolder(filepath.Join(d.path, filepath.Dir(stateFile)), isNotTemporary))
	for level := -1; level < 63/torchwood.TileHeight; level++ {
		span := int64(1) << (max(level, 0) * torchwood.TileHeight)
		edge := tlog.Tile{H: torchwood.TileHeight, L: level, N: size / span / torchwood.TileWidth, W: torchwood.TileWidth}
		name := filepath.Join(d.path, torchwood.TilePath(edge))
		err = errors.Join(err, d.sweepFolder(filepath.Dir(name), func(file string) bool {
			// Full tiles have names of equal length: they sort as their numbers.
			return isTileName(file) && file < filepath.Base(name)
		}), d.sweepFolder(name+".p", func(file string) bool {
			w, err := strconv.ParseInt(file, 10, 64)
			return err == nil && w <= size/span%torchwood.TileWidth
		}))
	}
	return err
}

// isTileName tells the name of a full tile from that of a temporary file.
func isTileName(file string) bool {
	_, err := strconv.Atoi(file)
	return err == nil && len(file) == 3
}

// isNotTemporary tells other files from those whose writer has died: ours, and
// Tessera's, whose names are the file's and a number.
func isNotTemporary(file string) bool {
	return !strings.HasPrefix(file, ".new-") && strings.TrimRight(file, "0123456789") == file
}

// sweepFolder removes the files of a folder, not those in its folders, that are
// not to be kept.
func (d dir) sweepFolder(folder string, keep func(file string) bool) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clearing the ledger's edge: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() || keep(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(folder, e.Name())); err != nil {
			return fmt.Errorf("clearing the ledger's edge: %w", err)
		}
	}
	return nil
}
