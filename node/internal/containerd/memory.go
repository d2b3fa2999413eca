package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// Memory holds the users' files that Install has put aside, by folder. They are in
// certs.d too, from where they are moved back unchanged, but wiping certs.d wipes
// them as well. One goroutine owns a Memory.
type Memory map[string]userFile

// userFile is a file, or a link to one.
type userFile struct {
	content  []byte
	link     string // where it leads; empty if it is not a link
	mode     fs.FileMode
	uid, gid int
	modified time.Time
}

// Hold notes what is put aside for the registries of s, and puts aside again what was
// noted and is gone. Where a user has a file in place it is forgotten: then it is that
// file that the next Install puts aside.
func (m Memory) Hold(s Setup) error {
	var gone []string
	for _, f := range folders(s.Registries) {
		file, there, err := s.putAside(f.name)
		if err != nil {
			return fmt.Errorf("reading what was set up for %s before: %w", f.registry, err)
		}
		if there {
			m[f.name] = file
		} else if _, noted := m[f.name]; noted {
			gone = append(gone, f.name)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	err := s.begin()
	if err == nil {
		err = s.locked(func() (err error) {
			for _, folder := range gone {
				err = errors.Join(err, m.putAsideAgain(s, folder))
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keeping what was set up before: %w", err)
	}
	return nil
}

// putAside reads what Install has put aside of a folder.
func (s Setup) putAside(folder string) (file userFile, there bool, err error) {
	name := filepath.Join(s.backup(folder), hostsFile)
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return file, false, nil
	}
	if err != nil {
		return file, false, err
	}
	file = userFile{mode: info.Mode().Perm(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.uid, file.gid = int(st.Uid), int(st.Gid)
	}
	if info.Mode().Type() == fs.ModeSymlink {
		file.link, err = os.Readlink(name)
		return file, err == nil, err
	}
	file.content, there, err = read(name)
	return file, there, err
}

func (m Memory) putAsideAgain(s Setup, folder string) error {
	current, exists, err := read(s.hosts(folder))
	if err != nil {
		return err
	}
	if _, ours := parse(current); exists && !ours {
		delete(m, folder)
		return nil
	}
	file, name := m[folder], filepath.Join(s.backup(folder), hostsFile)
	if err := os.MkdirAll(s.backup(folder), 0o755); err != nil {
		return err
	}
	if err := removeFile(filepath.Join(s.backup(folder), absentFile)); err != nil {
		return err
	}
	// Crash before: what was wiped is lost, as it is without a keeper. Crash
	// between these: the file is there, readable only by its new owner, root.
	if file.link != "" {
		err = os.Symlink(file.link, name)
	} else {
		err = durable.WriteSecret(name, file.content)
	}
	if err != nil {
		return err
	}
	if err := os.Lchown(name, file.uid, file.gid); err != nil || file.link != "" {
		return err
	}
	return errors.Join(os.Chmod(name, file.mode), os.Chtimes(name, time.Time{}, file.modified))
}
