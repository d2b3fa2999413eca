package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica/internal/index"
)

// Problem is a file of a ledger that is not what it should be.
type Problem struct {
	// Path is the file, relative to the ledger's folder.
	Path string `json:"path"`
	// Message says what is wrong with it.
	Message string `json:"message"`
	// Repaired tells whether it is as it should be now.
	Repaired bool `json:"repaired"`
	// Advice says what to do about one that is not repaired.
	Advice string `json:"advice,omitempty"`
}

// Check is a check of a ledger's files, of one that no process uses.
type Check struct {
	Path string // the ledger's folder
	Key  string // its verifier key
	// Repair has what can be made again made again.
	Repair bool
	// Sources have copies of the ledger, for what cannot be made from this one.
	Sources []torchwood.TileReader

	dir      dir
	tree     tlog.Tree
	problems []Problem
}

const adviceSource = "give the URL of a node that has a copy, by --from"

// Run checks every file and returns what was found; blocks is the size of the
// ledger whose blocks are all there and proven, -1 if they are not.
func (c *Check) Run(ctx context.Context) (problems []Problem, blocks int64, err error) {
	verifier, err := ledger.NewVerifier(c.Key)
	if err != nil {
		return nil, -1, err
	}
	if _, err := os.Stat(c.Path); err != nil {
		return nil, -1, fmt.Errorf("checking the ledger: %w", err)
	}
	lock, err := lockFile(filepath.Join(c.Path, lockName))
	if err != nil {
		return nil, -1, err
	}
	defer lock.Close()
	c.dir = dir{c.Path}
	whole, err := c.run(ctx, verifier)
	blocks = -1
	if whole {
		blocks = c.tree.N
	}
	return c.problems, blocks, err
}

func (c *Check) run(ctx context.Context, v *ledger.Verifier) (whole bool, err error) {
	rotations, err := c.dir.readRotations()
	if err != nil {
		c.found(rotationsFile, err.Error(), c.remove(rotationsFile), "remove it: it is fetched again from the ledger's peers")
	}
	record, err := c.dir.readKeys()
	if err != nil {
		// Not removed: then it would look as if an earlier version had written all.
		c.found(keysFile, err.Error(), func() error { return durable.WriteFile(filepath.Join(c.Path, keysFile), []byte("{}")) }, "")
	}
	ok, err := c.checkpoint(ctx, v, record, record.withHandOvers(rotations))
	if err != nil || !ok {
		return false, err
	}
	if whole, err = c.tiles(ctx); err != nil || !whole {
		return false, err
	}
	return true, errors.Join(c.strays(), c.state(), c.index(ctx))
}

// found notes a problem and has fix repair it if repairs are enabled and
// possible.
func (c *Check) found(path, message string, fix func() error, advice string) {
	p := Problem{Path: path, Message: message, Advice: advice}
	if c.Repair && fix != nil {
		if err := fix(); err != nil {
			p.Advice = fmt.Sprintf("the repair failed: %v; %s", err, advice)
		} else {
			p.Repaired, p.Advice = true, ""
		}
	} else if fix != nil {
		p.Advice = "run again with --repair"
	}
	c.problems = append(c.problems, p)
}

func (c *Check) remove(path string) func() error {
	return func() error { return os.Remove(filepath.Join(c.Path, path)) }
}

// checkpoint reads the signed checkpoint, under which everything else is.
func (c *Check) checkpoint(ctx context.Context, pinned *ledger.Verifier, record *keyRecord, rotations []ledger.Rotation) (ok bool, err error) {
	signed, err := c.dir.ReadEndpoint(ctx, checkpointFile)
	var stored ledger.Checkpoint
	if err == nil {
		if stored, err = ledger.VerifyCheckpoint(record.mayHaveSigned(pinned, rotations), signed); err == nil {
			c.tree = stored.Tree
			return true, nil
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		if empty, eerr := c.empty(); eerr != nil || empty {
			return false, eerr // a node that has not reached its network yet
		}
		err = errors.New("it is missing")
	}
	newest, kerr := c.newest(ctx, pinned, record, rotations)
	if kerr != nil {
		err = errors.Join(err, kerr)
	}
	var fix func() error
	if newest.Tree.N > 0 {
		fix = func() error { return durable.WriteFile(filepath.Join(c.Path, checkpointFile), newest.Signed) }
	}
	c.found(checkpointFile, err.Error(), fix, adviceSource)
	c.tree = newest.Tree
	return fix != nil && c.Repair, nil
}

// newest is the largest checkpoint that the sources have, by the only key that
// may sign now: the holder of an older key can make larger ones.
func (c *Check) newest(ctx context.Context, pinned *ledger.Verifier, record *keyRecord, rotations []ledger.Rotation) (newest ledger.Checkpoint, err error) {
	for _, s := range c.Sources {
		if r, ok := s.(rotationReader); ok {
			if told, rerr := r.ReadRotations(ctx); rerr == nil {
				rotations = slices.Concat(rotations, told)
			}
		}
	}
	v, err := record.lastKey(pinned.Newest(), rotations)
	if err != nil {
		return newest, err
	}
	for _, s := range c.Sources {
		signed, err := s.ReadEndpoint(ctx, checkpointFile)
		if err != nil {
			continue
		}
		if got, err := ledger.VerifyCheckpoint(v, signed); err == nil && got.Tree.N > newest.Tree.N {
			newest = got
		}
	}
	return newest, nil
}

// empty tells whether there are no blocks either.
func (c *Check) empty() (bool, error) {
	_, err := os.Stat(filepath.Join(c.Path, "tile"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// strays finds the files of crashes: temporary ones, and tiles beyond the tree.
func (c *Check) strays() error {
	state, _, _ := c.dir.readState() // a publisher's tree may be ahead of the checkpoint
	size := max(c.tree.N, state.N)
	root := filepath.Join(c.Path, "tile")
	if empty, err := c.empty(); err != nil || empty {
		return err
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		path, err := filepath.Rel(c.Path, name)
		if err != nil {
			return err
		}
		path = filepath.ToSlash(path)
		t, err := torchwood.ParseTilePath(path)
		if err == nil && t.N*torchwood.TileWidth+int64(t.W) <= size>>(max(t.L, 0)*torchwood.TileHeight) {
			return nil
		}
		c.found(path, "a crash left it", c.remove(path), "")
		return nil
	})
}

// state checks what a publisher has integrated.
func (c *Check) state() error {
	state, ok, err := c.dir.readState()
	if err == nil && !ok {
		return nil // a mirror's copy
	}
	message := ""
	switch {
	case err != nil:
		message = err.Error()
	case state.N < c.tree.N:
		message = fmt.Sprintf("it is at %d blocks, and %d are signed", state.N, c.tree.N)
	case state.N == c.tree.N && state.Hash != c.tree.Hash:
		message = "its root is not the signed one"
	}
	if message != "" {
		c.found(stateFile, message, func() error { return c.dir.writeState(c.tree) }, "")
	}
	return nil
}

// index makes the index's files again, elsewhere, and compares them.
func (c *Check) index(ctx context.Context) error {
	folder := filepath.Join(c.Path, indexFolder)
	files, err := index.Files(folder)
	if err != nil || len(files) == 0 {
		return err // it is made at the next start
	}
	fresh, err := os.MkdirTemp(c.Path, ".new-index-")
	if err != nil {
		return fmt.Errorf("checking the index: %w", err)
	}
	defer os.RemoveAll(fresh)
	l := &Ledger{dir: c.dir, log: slog.New(slog.DiscardHandler)}
	if l.cache, err = newTileCache(c.dir); err != nil {
		return err
	}
	if l.index, err = index.Open(fresh, index.SegmentBlocks); err != nil {
		return err
	}
	err = l.indexBlocks(ctx, c.dir, c.tree)
	if err = errors.Join(err, l.index.Close()); err != nil {
		return fmt.Errorf("checking the index: %w", err)
	}
	for _, f := range files {
		got, err := os.ReadFile(f)
		want, werr := os.ReadFile(filepath.Join(fresh, filepath.Base(f)))
		if err == nil && werr == nil && bytes.Equal(got, want) {
			continue
		}
		name := filepath.Join(indexFolder, filepath.Base(f))
		// Removed, it is made again at the next start, and all after it.
		c.found(name, "it is not what the blocks say", c.remove(name), "")
	}
	return nil
}
