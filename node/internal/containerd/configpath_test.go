package containerd

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// What containerd makes of each of these was seen by its 'config dump', of 1.6
// and 2.4.
func TestConfigPath(t *testing.T) {
	const (
		grpc   = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
		images = "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
		other  = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/docker/certs.d\"\n"
		alone  = "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n"
	)
	for name, tc := range map[string]struct {
		files map[string]string
		want  string // "" is that certs.d is read
	}{
		"1.6 and 1.7":                {map[string]string{"config.toml": "version = 2\n" + grpc}, ""},
		"2.x":                        {map[string]string{"config.toml": "version = 3\n" + images}, ""},
		"2.x with the old table":     {map[string]string{"config.toml": "version = 3\n" + grpc}, ""},
		"version 1":                  {map[string]string{"config.toml": "[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d/\"\n"}, ""},
		"no file":                    {nil, "there is no "},
		"nothing set":                {map[string]string{"config.toml": "version = 2\n"}, "no config_path is set"},
		"another folder":             {map[string]string{"config.toml": "version = 2\n" + other}, `is "/etc/docker/certs.d"`},
		"a list":                     {map[string]string{"config.toml": strings.ReplaceAll(images, "certs.d", "certs.d:/etc/docker/certs.d")}, `certs.d:/etc/docker`},
		"2.x with version 2":         {map[string]string{"config.toml": "version = 2\n" + images}, ""},
		"imported":                   {map[string]string{"config.toml": "version = 2\nimports = [\"conf.d/*.toml\"]\n", "conf.d/a.toml": "version = 2\n" + grpc}, ""},
		"imported, and overridden":   {map[string]string{"config.toml": "version = 2\nimports = [\"conf.d/*.toml\"]\n" + grpc, "conf.d/a.toml": "version = 2\n" + other}, `is "/etc/docker/certs.d"`},
		"imported, and lost in 1.x":  {map[string]string{"config.toml": "version = 2\nimports = [\"conf.d/*.toml\"]\n" + grpc, "conf.d/a.toml": "version = 2\n" + alone}, "containerd 1.x"},
		"imported, and kept in 2.x":  {map[string]string{"config.toml": "version = 3\nimports = [\"conf.d/*.toml\"]\n" + grpc, "conf.d/a.toml": "version = 3\n" + alone}, ""},
		"imports in a circle":        {map[string]string{"config.toml": "version = 2\nimports = [\"config.toml\", \"b.toml\"]\n", "b.toml": "imports = [\"config.toml\"]\n" + grpc}, ""},
		"an import that is missing":  {map[string]string{"config.toml": "imports = [\"b.toml\"]\n"}, "b.toml: no such file"},
		"what is no TOML":            {map[string]string{"config.toml": "config_path = certs.d\n"}, "config.toml: toml"},
		"a config_path of no string": {map[string]string{"config.toml": "[plugins.cri.registry]\nconfig_path = 7\n"}, "config.toml: toml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range tc.files {
				write(t, filepath.Join(dir, file), content)
			}
			err := Setup{CertsD: "/etc/containerd/certs.d"}.CheckConfig(filepath.Join(dir, "config.toml"))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if problem, ok := errors.AsType[*ConfigError](err); ok && !strings.Contains(problem.Error(), "restart containerd") {
				t.Errorf("it does not say what to do: %v", problem)
			}
		})
	}
}
