package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

const (
	// backupDir holds, for each registry that was taken over, what was there
	// before. containerd never reads it, because it is not the name of a
	// registry.
	backupDir = ".pyrsia-backup"
	// absentFile stands in a registry's backup for a hosts.toml that was not
	// there. It says whether the registry's folder was: "true" or "false".
	absentFile = "absent"
	// createdFile stands in the backup if all of certs.d was not there.
	createdFile = "created"
	// folderWasNotThere is what absentFile says of a folder that we have made.
	folderWasNotThere = "false\n"
)

func (s Setup) backup(folder string) string { return filepath.Join(s.CertsD, backupDir, folder) }

// beside are folders next to certs.d in which it is made, and goes.
func (s Setup) beside(what string) string { return filepath.Clean(s.CertsD) + ".pyrsia-" + what }

// begin makes certs.d if it is not there.
func (s Setup) begin() error {
	if err := s.sweepBeside(); err != nil {
		return err
	}
	if _, err := os.Stat(s.CertsD); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if to, err := os.Readlink(s.CertsD); err == nil {
		return refused("%s is a link to %s, which is not there: make that folder, or remove the link", s.CertsD, to)
	}
	making := s.beside("new")
	if err := os.MkdirAll(filepath.Join(making, backupDir), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(making, backupDir, createdFile), nil); err != nil {
		return err
	}
	// Crash before: a folder beside, which the next run removes.
	return s.renameDir(making, s.CertsD)
}

// renameDir renames a folder beside certs.d, durably.
func (s Setup) renameDir(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(filepath.Clean(s.CertsD)))
}

func (s Setup) sweepBeside() error {
	var err error
	for _, dir := range []string{s.beside("new"), s.beside("old")} {
		// In a pod certs.d is a mount, and to remove what is not there beside
		// it fails too: the root file system is read-only.
		if _, missing := os.Lstat(dir); !errors.Is(missing, fs.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// end removes what is left when the last registry was restored; what it puts
// beside certs.d, sweepBeside removes.
func (s Setup) end() error {
	left, err := s.kept()
	if err != nil || len(left) > 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.CertsD, backupDir, createdFile)); err == nil {
		all, err := os.ReadDir(s.CertsD)
		if _, noLink := os.Readlink(s.CertsD); err != nil || len(all) > 1 || noLink == nil {
			return errors.Join(err, os.RemoveAll(filepath.Join(s.CertsD, backupDir))) // the user keeps something there
		}
		// Crash after: a folder beside, which the next run removes.
		err = s.renameDir(s.CertsD, s.beside("old"))
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EROFS) { // a mount, in a pod: the empty folder stays
			return os.RemoveAll(filepath.Join(s.CertsD, backupDir))
		}
		return err
	}
	// Crash between: an empty folder, which the next run removes.
	if err := removeFile(s.lock()); err != nil {
		return err
	}
	return removeEmpty(filepath.Join(s.CertsD, backupDir))
}

// kept lists the registries that have a backup.
func (s Setup) kept() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.CertsD, backupDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// keep notes what the user had. A hosts.toml is kept as a link to the file
// itself, so that also its owner, mode and times come back.
func (s Setup) keep(registry string, exists bool) error {
	if err := os.MkdirAll(s.backup(registry), 0o755); err != nil {
		return err
	}
	link, absent := filepath.Join(s.backup(registry), hostsFile), filepath.Join(s.backup(registry), absentFile)
	if !exists {
		for _, noted := range []string{link, absent} {
			if _, err := os.Lstat(noted); err == nil {
				return nil // by an earlier Install, whose file or folder was removed
			}
		}
		_, err := os.Stat(s.dir(registry))
		return durable.WriteFile(absent, fmt.Appendf(nil, "%t\n", err == nil))
	}
	// Crash between these: the user's file is still in place, and the next
	// Install does this again.
	if err := errors.Join(removeFile(link), removeFile(absent)); err != nil {
		return err
	}
	if err := os.Link(s.hosts(registry), link); err != nil {
		return err
	}
	return durable.SyncDir(s.backup(registry))
}

// restore puts back what keep has noted, even if the folder was removed. It is
// called again after a crash.
func (s Setup) restore(registry string) error {
	kept := filepath.Join(s.backup(registry), hostsFile)
	if _, err := os.Lstat(kept); err == nil {
		if err := os.MkdirAll(s.dir(registry), 0o755); err != nil {
			return err
		}
		if err := os.Rename(kept, s.hosts(registry)); err != nil {
			return err
		}
		return durable.SyncDir(s.dir(registry))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := removeFile(s.hosts(registry)); err != nil {
		return err
	}
	hadDir, _, err := read(filepath.Join(s.backup(registry), absentFile))
	if err != nil || string(hadDir) != folderWasNotThere {
		return err
	}
	return removeEmpty(s.dir(registry))
}

// drop removes a registry's backup.
func (s Setup) drop(registry string) error { return os.RemoveAll(s.backup(registry)) }

// sweep removes the temporary files of a process that was killed.
func (s Setup) sweep(registry string) error {
	for _, dir := range []string{s.dir(registry), s.backup(registry)} {
		left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
		if err != nil {
			return err
		}
		for _, name := range left {
			if err := removeFile(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeEmpty removes a folder unless something is in it.
func removeEmpty(name string) error {
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}
