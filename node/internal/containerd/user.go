package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defaultFolder is read for all registries that have no folder of their own.
const defaultFolder = "_default"

// userSetup is what containerd read for a name before there was a mirror.
type userSetup struct {
	folder string      // of certs.d, in which it is; empty if there is none
	hosts  []byte      // hosts.toml, which may be empty or not there
	ca     []string    // certificates beside it, which count if there is no hosts.toml
	client [][2]string // certificate and key
}

// before finds it as all versions of containerd do, from 1.6 to 2.4: in
// HOST_PORT_, HOST:PORT or _default. The first of these folders counts,
// whatever is in it.
func (s Setup) before(f folder) (userSetup, error) {
	for _, name := range slices.Compact([]string{f.name, f.registry, defaultFolder}) {
		hosts, there, err := s.usersHosts(name)
		if err != nil {
			return userSetup{}, err
		}
		u := userSetup{folder: name, hosts: hosts}
		if len(hosts) == 0 {
			if u.ca, u.client, err = certificates(s.dir(name)); err != nil {
				return userSetup{}, err
			}
		}
		if there || len(u.ca)+len(u.client) > 0 {
			return u, nil
		}
	}
	return userSetup{}, nil
}

// usersHosts reads the user's hosts.toml of a folder, also where ours has taken
// its place or has been removed since, and tells whether the folder is the user's.
func (s Setup) usersHosts(folder string) (content []byte, there bool, err error) {
	content, exists, err := read(s.hosts(folder))
	if err != nil {
		return nil, false, err
	}
	if _, ours := parse(content); ours || !exists {
		content, exists, err = s.keptHosts(folder)
	}
	if err != nil || exists {
		return content, exists, err
	}
	hadDir, noted, err := read(filepath.Join(s.backup(folder), absentFile))
	if err != nil || noted {
		return nil, string(hadDir) != folderWasNotThere, err
	}
	_, err = os.Stat(s.dir(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return nil, err == nil, err
}

// keptHosts reads the user's file that keep has put aside. If that is a link, it
// leads where it led from its own place.
func (s Setup) keptHosts(folder string) (content []byte, exists bool, err error) {
	name := filepath.Join(s.backup(folder), hostsFile)
	to, err := os.Readlink(name)
	if err != nil {
		return read(name)
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(s.dir(folder), to)
	}
	content, exists, err = read(to)
	if _, ours := parse(content); ours && filepath.Dir(to) != s.dir(folder) {
		// It led to another folder's, of which ours has taken the place since.
		return s.keptHosts(filepath.Base(filepath.Dir(to)))
	}
	if err == nil && !exists {
		err = fmt.Errorf("%s, to which the hosts.toml of %s led before, is not there", to, folder)
	}
	return content, exists, err
}

// certificates finds what containerd and Docker take from a folder without a
// hosts.toml: *.crt are authorities, *.cert and *.key are the client's.
func certificates(dir string) (ca []string, client [][2]string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name })
	}
	for _, e := range entries {
		name := e.Name()
		switch base, isCert := strings.CutSuffix(name, ".cert"); {
		case e.IsDir():
		case strings.HasSuffix(name, ".crt"):
			ca = append(ca, name)
		case isCert && has(base+".key"):
			client = append(client, [2]string{name, base + ".key"})
		case isCert:
			client = append(client, [2]string{name, name}) // the key is in it
		}
	}
	return ca, client, nil
}

// certificates gives the lines of a hosts.toml that stand for them.
func (u userSetup) certificates(move func(string) string) string {
	var ca, client []string
	for _, name := range u.ca {
		ca = append(ca, quote(move(name)))
	}
	for _, pair := range u.client {
		client = append(client, "["+quote(move(pair[0]))+", "+quote(move(pair[1]))+"]")
	}
	var out strings.Builder
	if len(ca) > 0 {
		fmt.Fprintf(&out, "ca = [%s]\n", strings.Join(ca, ", "))
	}
	if len(client) > 0 {
		fmt.Fprintf(&out, "client = [%s]\n", strings.Join(client, ", "))
	}
	return out.String()
}

// quote writes a string of TOML: the escapes of JSON are among its own.
func quote(s string) string {
	out, _ := json.Marshal(s)
	return string(out)
}
