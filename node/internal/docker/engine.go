package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/internal/systemd"
)

const (
	// SystemFile is what dockerd reads as root; a rootless one reads its user's.
	SystemFile   = "/etc/docker/daemon.json"
	settingsFile = "daemon.json"
	systemSocket = "/var/run/docker.sock"

	askTime   = 5 * time.Second
	maxAnswer = 4 << 20
)

// The image stores of Docker: which one it has decides what it reads of mirrors.
const (
	StoreContainerd  = "containerd"
	StoreGraphDriver = "graph-driver"
)

// Here is the set-up of the Docker of this machine, or, for a user who is not
// root, of that user's rootless one; with the folder in which it looks for
// hosts.toml, wherever its daemon.json is (moby daemon/pkg/registry, CertsDir), and
// the socket that it answers at.
func Here() (s Setup, certsD, socket string) {
	s, socket = Setup{SystemFile, systemd.SystemUnits, SystemFile}, systemSocket
	if os.Geteuid() != 0 {
		folder := userFolder(os.Getenv)
		file := filepath.Join(folder, settingsFile)
		s, socket = Setup{file, systemd.UserUnits(filepath.Dir(folder)), file}, filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "docker.sock")
	}
	return s, filepath.Join(s.folder(), "certs.d"), socket
}

// userFolder is where rootless Docker keeps its settings and certs.d.
func userFolder(getenv func(string) string) string {
	config := getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(getenv("HOME"), ".config")
	}
	return filepath.Join(config, "docker")
}

// Reload is how this user has Docker read daemon.json again.
func Reload() string {
	if os.Geteuid() == 0 {
		return "systemctl reload docker"
	}
	return "systemctl --user reload docker"
}

// Engine is what a running dockerd says of itself.
type Engine struct {
	Version    string
	ImageStore string
	Mirrors    []string // registry-mirrors as it has them now
}

// Ask asks the dockerd at a socket.
func Ask(ctx context.Context, socket string) (*Engine, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(socket, "unix://"))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/info", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("dockerd does not answer at %s: %w", socket, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	var info struct {
		ServerVersion  string
		DriverStatus   [][2]string
		RegistryConfig struct{ Mirrors []string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&info); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("what answers at %s is no Docker (%s)", socket, resp.Status)
	}
	e := &Engine{info.ServerVersion, StoreGraphDriver, info.RegistryConfig.Mirrors}
	for _, pair := range info.DriverStatus {
		if pair == [2]string{"driver-type", "io.containerd.snapshotter.v1"} {
			e.ImageStore = StoreContainerd
		}
	}
	return e, nil
}

// Asks tells whether a dockerd asks a mirror now.
func (e *Engine) Asks(mirror string) bool {
	for _, m := range e.Mirrors {
		if strings.TrimSuffix(m, "/") == strings.TrimSuffix(mirror, "/") {
			return true
		}
	}
	return false
}

// Running tells whether a dockerd runs that reads s.File.
func (s Setup) Running() (bool, error) {
	processes, err := s.processes()
	return len(processes) > 0, err
}
