package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Script runs a script of hack/cluster that prints where it has put programs,
// and returns what it printed.
func Script(name string, args ...string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	cmd := exec.Command(filepath.Join(strings.TrimSpace(string(root)), "hack", "cluster", name), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// DockerRegistry finds Debian's docker-registry, or unpacks it.
func DockerRegistry() (string, error) {
	if p := os.Getenv("PYRSIA_DOCKER_REGISTRY"); p != "" {
		return p, nil
	}
	if p, err := exec.LookPath("docker-registry"); err == nil {
		return p, nil
	}
	dir, err := Script("debian.sh")
	return filepath.Join(dir, "docker-registry"), err
}
