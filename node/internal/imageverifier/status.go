package imageverifier

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ProgramName is what Install calls the program in containerd's bin_dir.
const ProgramName = "pyrsia"

// Status is what is in containerd's bin_dir.
type Status struct {
	Program string   // where the link that Install has made leads; empty if there is none
	Others  []string // names of all else: containerd takes each for a verifier
}

// ReadStatus looks at a bin_dir. A link that leads nowhere is an error: with it
// containerd refuses every image.
func ReadStatus(binDir string) (s Status, err error) {
	entries, err := os.ReadDir(binDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("looking for the image verifier: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() != ProgramName {
			s.Others = append(s.Others, entry.Name())
			continue
		}
		file := filepath.Join(binDir, ProgramName)
		if s.Program, err = os.Readlink(file); err != nil {
			s.Program = file
		}
		if _, err := os.Stat(file); err != nil {
			return s, fmt.Errorf("%s leads to %s, which is not there: containerd refuses every image, if it asks this program; 'pyrsia image-verifier install' mends it", file, s.Program)
		}
	}
	return s, nil
}
