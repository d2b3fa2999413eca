package docker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeDockerd has this program be a dockerd that only waits.
const fakeDockerd = "PYRSIA_TEST_DOCKERD"

func beDockerd() {
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// A dockerd that was started with a mirror of its own would not start again.
func TestDockerdWithAMirrorOfItsOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string // of dockerd; FILE is daemon.json
		refused bool
	}{
		"a rootless one":   {[]string{"--registry-mirror=https://mirror.example"}, true}, // it reads its user's
		"another user's":   {[]string{"--config-file=FILE", "--registry-mirror=https://mirror.example"}, false},
		"its own mirror":   {[]string{"--config-file=FILE", "--registry-mirror=https://mirror.example"}, true},
		"in two words":     {[]string{"--config-file", "FILE", "--registry-mirror", "https://mirror.example"}, true},
		"no mirror":        {[]string{"--config-file=FILE", "--debug"}, false},
		"another settings": {[]string{"--registry-mirror=https://mirror.example", "--config-file=/nowhere/daemon.json"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := Setup{File: filepath.Join(t.TempDir(), "docker", "daemon.json")}
			if err := os.Mkdir(s.folder(), 0o755); err != nil {
				t.Fatal(err)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Args = []string{"/usr/bin/dockerd"}
			for _, a := range tt.args {
				cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "FILE", s.File))
			}
			cmd.Env = append(os.Environ(), fakeDockerd+"=1")
			if name == "a rootless one" {
				cmd.Env = append(cmd.Env, "ROOTLESSKIT_STATE_DIR=/nowhere", "XDG_CONFIG_HOME="+filepath.Dir(s.folder()))
			}
			if name == "another user's" {
				if os.Geteuid() != 0 {
					t.Skip("only root may start another user's program")
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
				for dir := filepath.Dir(self); len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
					if err := os.Chmod(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			stdin, err1 := cmd.StdinPipe()
			stdout, err2 := cmd.StdoutPipe()
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
			if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			err = s.Install(mirror)
			if tt.refused && (err == nil || !strings.Contains(err.Error(), "is started with --registry-mirror")) || !tt.refused && err != nil {
				t.Errorf("install: %v", err)
			}
			if _, exists, _ := read(s.File); exists == tt.refused {
				t.Errorf("daemon.json is there: %t", exists)
			}
		})
	}
}

// The unit that starts the next dockerd, with its drop-ins and variables, is looked
// at as well as what runs.
func TestUnitWithAMirrorOfItsOwn(t *testing.T) {
	const mirrorFlags = "--registry-mirror=https://mirror.example"
	for name, tt := range map[string]struct {
		files map[string]string // in the folders etc and lib; FILE is daemon.json, DIR their folder
		says  string            // empty: it is installed
	}{
		"none":        {nil, ""},
		"no mirror":   {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd -H fd:// --config-file=FILE\n"}, ""},
		"its mirror":  {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd --config-file=FILE " + mirrorFlags + "\n"}, "lib/docker.service"},
		"standard":    {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd \\\n  " + mirrorFlags + "\n"}, "lib/docker.service"},
		"by etc":      {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd " + mirrorFlags + "\n", "etc/docker.service": "[Service]\nExecStart=/usr/bin/dockerd\n"}, ""},
		"a drop-in":   {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd\n", "etc/docker.service.d/mirror.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd '--registry-mirror' https://mirror.example\n"}, "lib/docker.service"},
		"drop-in off": {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd " + mirrorFlags + "\n", "etc/docker.service.d/mirror.conf": "[Service]\nExecStart=\nExecStart=-/usr/bin/dockerd\n"}, ""},
		"hidden drop-in": {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd\n", "lib/docker.service.d/a.conf": "[Service]\nExecStart=/usr/bin/dockerd " + mirrorFlags + "\n",
			"etc/docker.service.d/a.conf": "[Service]\n"}, ""},
		"a variable":   {map[string]string{"lib/docker.service": "[Service]\nEnvironment=\"DOCKER_OPTS=--debug " + mirrorFlags + "\"\nExecStart=/usr/bin/dockerd $DOCKER_OPTS\n"}, "lib/docker.service"},
		"its file":     {map[string]string{"lib/docker.service": "[Service]\nEnvironmentFile=-DIR/default\nExecStart=/usr/bin/dockerd $DOCKER_OPTS\n", "default": "# of Debian\nDOCKER_OPTS=\"" + mirrorFlags + "\"\n"}, "lib/docker.service"},
		"without file": {map[string]string{"lib/docker.service": "[Service]\nEnvironmentFile=-DIR/default\nExecStart=/usr/bin/dockerd $DOCKER_OPTS\n"}, ""},
		"another file": {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/dockerd --config-file /nowhere/daemon.json " + mirrorFlags + "\n"}, ""},
		"another":      {map[string]string{"lib/docker.service": "[Service]\nExecStart=/usr/bin/other " + mirrorFlags + "\n"}, ""},
		"a comment":    {map[string]string{"lib/docker.service": "[Unit]\nExecStart=/usr/bin/dockerd " + mirrorFlags + "\n[Service]\n#ExecStart=/usr/bin/dockerd " + mirrorFlags + "\nExecStart=/usr/bin/dockerd\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := lay(t, "-"), t.TempDir()
			s.Standard = s.File
			s.Units = []string{filepath.Join(dir, "etc"), filepath.Join(dir, "lib")}
			for name, content := range tt.files {
				file := filepath.Join(dir, name)
				content = strings.NewReplacer("FILE", s.File, "DIR", dir).Replace(content)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Install(mirror)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "is started with --registry-mirror")) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if _, exists, _ := read(s.File); exists != (tt.says == "") {
				t.Errorf("daemon.json is there: %t", exists)
			}
		})
	}
}

// dockerd itself is asked before daemon.json is touched; what it says stays secret.
func TestDockerdIsAskedFirst(t *testing.T) {
	const had = `{"http-proxy": "http://user:secret@proxy:3128"}`
	for name, tt := range map[string]struct{ script, says string }{
		"takes it":       {`exit 0`, ""},
		"cannot tell":    {`echo "unknown flag: --validate"; exit 125`, ""},
		"another reason": {`echo "invalid userland-proxy-path"; exit 1`, ""},
		"refuses ours":   {`if grep registry-mirrors "$file"; then echo "the following directives: secret"; exit 1; fi`, "would not start with registry-mirrors"},
		"refuses theirs": {`echo "invalid JSON: secret in $file"; exit 1`, "does not start with this file as it is"},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := lay(t, had), t.TempDir()
			program := filepath.Join(dir, "dockerd")
			script := "#!/bin/sh\nfor a; do case $a in --config-file=*) file=${a#*=};; esac; done\n[ \"$1\" = --debug ] || exit 1\n" + tt.script + "\n"
			unit := "[Service]\nExecStart=" + program + " --debug --config-file=" + s.File + "\n"
			if err := errors.Join(os.WriteFile(program, []byte(script), 0o755), os.WriteFile(filepath.Join(dir, unitFile), []byte(unit), 0o644)); err != nil {
				t.Fatal(err)
			}
			s.Units, s.Standard = []string{dir}, SystemFile
			want := tree(t, s)
			err := s.Install(mirror)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(want, tree(t, s)); tt.says != "" && diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// serveInfo is a socket that answers as dockerd does to GET /info.
func serveInfo(t *testing.T, info any) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pyrd-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/info" {
			_ = json.NewEncoder(w).Encode(info)
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func TestAsk(t *testing.T) {
	type info map[string]any
	registry := info{"Mirrors": []string{mirror + "/"}}
	for name, tt := range map[string]struct {
		info any
		want Engine
	}{
		"29":    {info{"ServerVersion": "29.0.0", "Driver": "overlayfs", "DriverStatus": [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}, "RegistryConfig": registry}, Engine{"29.0.0", StoreContainerd, []string{mirror + "/"}}},
		"20.10": {info{"ServerVersion": "20.10.24", "Driver": "overlay2", "DriverStatus": [][2]string{{"Backing Filesystem", "extfs"}}}, Engine{"20.10.24", StoreGraphDriver, nil}},
	} {
		got, err := Ask(t.Context(), serveInfo(t, tt.info))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(&tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Asks(mirror) != (tt.want.Mirrors != nil) || got.Asks("http://127.0.0.1:6001") {
			t.Errorf("%s: asks %t", name, got.Asks(mirror))
		}
	}
	if _, err := Ask(t.Context(), "/nowhere/docker.sock"); err == nil || !strings.Contains(err.Error(), "does not answer at /nowhere/docker.sock") {
		t.Errorf("nobody: %v", err)
	}
	if _, err := Ask(t.Context(), serveInfo(t, "what?")); err == nil || !strings.Contains(err.Error(), "is no Docker") {
		t.Errorf("another program: %v", err)
	}
}

// A hosts.toml with a host has Docker take no notice of registry-mirrors.
func TestOverrides(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none":           {nil, ""},
		"certificates":   {map[string]string{"docker.io/ca.crt": "", "_default/hosts.toml": "[host.\"https://a.example\"]\n"}, ""},
		"a server alone": {map[string]string{"docker.io/hosts.toml": "server = \"https://a.example\"\n"}, ""},
		"a host":         {map[string]string{"docker.io/hosts.toml": "[host.\"https://a.example\"]\n"}, "docker.io/hosts.toml"},
		"of all":         {map[string]string{"_default/hosts.toml": "[host.\"https://a.example\"]\n"}, "_default/hosts.toml"},
		"of another":     {map[string]string{"quay.io/hosts.toml": "[host.\"https://a.example\"]\n"}, ""},
	} {
		dir := t.TempDir()
		for name, content := range tt.files {
			file := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want := tt.want
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got, err := Overrides(dir); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestImageStoreOfSettings(t *testing.T) {
	for content, want := range map[string]string{
		`{}`: "", `{"features":{"containerd-snapshotter":true}}`: StoreContainerd, `{"features":{"containerd-snapshotter":false}}`: StoreGraphDriver, `{"features":{"buildkit":true}}`: "",
	} {
		if got := imageStoreOf([]byte(content)); got != want {
			t.Errorf("%s: %q, want %q", content, got, want)
		}
	}
}
