package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// Overrides gives the hosts.toml that has a Docker with the containerd image store
// take no notice of registry-mirrors; empty if there is none. It does so if it names
// any host (moby daemon/hosts.go); a server alone is Docker Hub by another name.
func Overrides(certsD string) (file string, err error) {
	for _, folder := range []string{"docker.io", "_default"} { // the first folder that is there
		dir := filepath.Join(certsD, folder)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		file := filepath.Join(dir, "hosts.toml")
		content, exists, err := read(file)
		if err != nil || !exists {
			return "", err
		}
		var hosts struct {
			Host map[string]any `toml:"host"`
		}
		if err := toml.Unmarshal(content, &hosts); err != nil {
			return file, fmt.Errorf("%s cannot be read, by Docker neither: %w", file, err)
		}
		if len(hosts.Host) > 0 {
			return file, nil
		}
		return "", nil
	}
	return "", nil
}
