package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/containerd/criconfig"
	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// containerdConfig is the containerd whose configuration is looked at.
type containerdConfig struct {
	file, version string
}

func (c *containerdConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.file, "config", "/etc/containerd/config.toml", "containerd's configuration")
	f.StringVar(&c.version, "containerd-version", "", "containerd's version, such as 2.4.2 (default: what the containerd on the PATH says, else all that can read the configuration are judged)")
}

// inspect tells whether containerd reads a certs.d.
func (c containerdConfig) inspect(ctx context.Context, certsD string) *criconfig.Report {
	version := c.version
	if version == "" {
		version = versionOnPath(ctx)
	}
	return criconfig.Inspect(criconfig.Query{File: c.file, CertsD: certsD, Version: version})
}

// isHere tells whether there is anything of containerd to look at: in a pod its
// configuration is out of reach.
func (c containerdConfig) isHere(ctx context.Context) bool {
	_, err := os.Stat(c.file)
	return err == nil || c.version != "" || versionOnPath(ctx) != ""
}

// versionOnPath asks the containerd on the PATH; empty if there is none.
func versionOnPath(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "containerd", "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output() // containerd PACKAGE VERSION REVISION
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 3 {
		return ""
	}
	return fields[2]
}

// readBy says in a word whether containerd reads the file of one folder of
// certs.d, and if not, in a sentence why.
func readBy(r *criconfig.Report, certsD string, state containerd.State) (word, why string) {
	switch {
	case state.Mode == "":
		return "-", ""
	case r.Reads() != criconfig.Yes:
		return string(r.Reads()), "" // the report says why
	}
	own, err := durable.Read(filepath.Join(certsD, state.Registry, "hosts.toml"))
	if err != nil {
		return string(criconfig.Unknown), err.Error()
	}
	registry := criconfig.RegistryOf(state.Registry)
	for _, j := range r.Judgements {
		hosts, err := r.Hosts(j, registry)
		switch {
		case err != nil:
			return string(criconfig.Unknown), err.Error()
		case !bytes.Equal(hosts.Content, own):
			return string(criconfig.No), fmt.Sprintf("containerd looks for %s in %s, which wins over %s: remove it, or install there", registry, hosts.Folder, filepath.Join(certsD, state.Registry))
		case hosts.Dropped != "":
			return string(criconfig.No), fmt.Sprintf("containerd %s drops %s/hosts.toml and goes to %s itself: %s", j.Release, hosts.Folder, registry, hosts.Dropped)
		}
	}
	return string(criconfig.Yes), ""
}
