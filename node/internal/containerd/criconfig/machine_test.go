package criconfig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	good  = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
	other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/other\"\n"
)

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

// Another machine's folder is read as that machine sees it: its links lead within
// it, and never to what the reader has at that place.
func TestAnotherMachine(t *testing.T) {
	const file = "/etc/containerd/config.toml"
	for name, tc := range map[string]struct {
		files, links map[string]string
		want         Answer
		say          string
	}{
		"a file":               {map[string]string{file: good}, nil, Yes, ""},
		"none":                 {map[string]string{"/etc/containerd/other": ""}, nil, No, "there is no /etc/containerd/config.toml"},
		"an absolute link":     {map[string]string{"/etc/containerd/real/a.toml": good}, map[string]string{file: "/etc/containerd/real/a.toml"}, Yes, ""},
		"a relative link":      {map[string]string{"/etc/containerd/real/a.toml": good}, map[string]string{file: "real/../real/a.toml"}, Yes, ""},
		"a link that leads up": {map[string]string{"/etc/containerd/a.toml": good}, map[string]string{file: "../../../../../../etc/containerd/a.toml"}, Yes, ""},
		"a link outside":       {map[string]string{"/opt/a.toml": good}, map[string]string{file: "/opt/a.toml"}, Unknown, "it lies at /opt/a.toml, outside of /etc/containerd"},
		"a link to here":       {nil, map[string]string{file: "HERE/a.toml"}, Unknown, "outside of /etc/containerd"},
		"a link to itself":     {nil, map[string]string{file: "config.toml"}, Unknown, "its links have no end"},
		"a link to nothing":    {nil, map[string]string{file: "gone.toml"}, No, "there is no "},
		"a linked folder": {map[string]string{file: "imports = [\"conf.d/*.toml\"]\n", "/etc/containerd/real/a.toml": good},
			map[string]string{"/etc/containerd/conf.d": "/etc/containerd/real"}, Yes, ""},
		"a folder outside": {map[string]string{file: good + "\n", "/opt/a.toml": other},
			map[string]string{"/etc/containerd/conf.d": "/opt"}, Yes, ""},
		"an import outside": {map[string]string{file: "imports = [\"/opt/*.toml\"]\n" + good, "/opt/a.toml": other}, nil, Unknown, "/opt is not readable here"},
		"an import of a link outside": {map[string]string{file: "imports = [\"conf.d/*.toml\"]\n" + good},
			map[string]string{"/etc/containerd/conf.d/a.toml": "/opt/a.toml"}, Unknown, "/etc/containerd/conf.d/a.toml is not readable here: it lies at /opt/a.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			here := lay(t, map[string]string{"a.toml": good})
			root := lay(t, tc.files)
			for name, to := range tc.links {
				link(t, strings.Replace(to, "HERE", here, 1), filepath.Join(root, name))
			}
			report := Inspect(Query{Machine: Machine{Root: root, Dirs: []string{"/etc/containerd"}}, File: file, CertsD: certsD, Version: "2.4.2"})
			if report.Reads() != tc.want || !strings.Contains(report.String(), tc.say) || strings.Contains(report.String(), root) {
				t.Errorf("%s, want %s and %q: %s", report.Reads(), tc.want, tc.say, report)
			}
		})
	}
}

// If a file cannot be read, nothing is claimed, nothing waits for it, and none of
// its content is printed.
func TestUnreadable(t *testing.T) {
	const secret = "password = \"hunter2\"\n"
	var many strings.Builder
	for i := range 2 * maxFiles {
		fmt.Fprintf(&many, "%q,", fmt.Sprintf("f%d.toml", i))
	}
	files := map[string]string{}
	for i := range 2 * maxFiles {
		files[fmt.Sprintf("f%d.toml", i)] = fmt.Sprintf("imports = [\"f%d.toml\"]\n", i+1)
	}
	for name, tc := range map[string]struct {
		content string
		say     string
	}{
		"no TOML":              {secret + "password = hunter2\n", "config.toml is not readable here: it is no TOML of the right form, line 2 column"},
		"a version of no kind": {secret + "version = \"2\"\n", "line 2"},
		"a key twice":          {secret + secret, "is no TOML of the right form"},
		"many imports":         {"imports = [" + many.String() + "]\n", "imports more than 64 files"},
		"a long chain":         {"imports = [\"f0.toml\"]\n", "imports more than 64 files"},
		"a large file":         {"# " + strings.Repeat("x", 1<<20) + "\n", "more than 1048576 bytes"},
		"much nested":          {"a = " + strings.Repeat("[", 1<<19) + "\n", "is no TOML of the right form"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := lay(t, files)
			file := filepath.Join(dir, "config.toml")
			if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"", "1.6.20", "2.4.2"} {
				report := Inspect(Query{File: file, CertsD: certsD, Version: v})
				if report.Reads() != Unknown || !strings.Contains(report.String(), tc.say) || strings.Contains(report.String(), "hunter2") {
					t.Errorf("%s: %s, want %q: %s", v, report.Reads(), tc.say, report)
				}
			}
		})
	}
	fifo := filepath.Join(t.TempDir(), "config.toml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if report := Inspect(Query{File: fifo, CertsD: certsD}); report.Reads() != Unknown || !strings.Contains(report.String(), "a FIFO") {
		t.Errorf("a FIFO: %s", report)
	}
}

// A folder may have two names.
func TestFolderOfTwoNames(t *testing.T) {
	dir := lay(t, map[string]string{"certs.d/docker.io/hosts.toml": ""})
	link(t, "certs.d", filepath.Join(dir, "link"))
	file := filepath.Join(dir, "config.toml")
	content := strings.Replace(good, certsD, filepath.Join(dir, "link"), 1)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if report := Inspect(Query{File: file, CertsD: filepath.Join(dir, "certs.d"), Version: "2.4.2"}); report.Reads() != Yes {
		t.Error(report)
	}
}

func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.toml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, v := range append(versions, "") {
			report := Inspect(Query{Machine: Machine{Root: dir, Dirs: []string{"/"}}, File: "/config.toml", CertsD: certsD, Version: v})
			if report.Reads() == No && !strings.Contains(report.String(), "To mend it") {
				t.Errorf("%s: %s", v, report)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	_, err := Machine{}.load(filepath.Join(lay(t, map[string]string{"config.toml": "imports = [\"b.toml\"]\n"}), "config.toml"), release{})
	if missing, ok := errors.AsType[*missingError](err); !ok || !strings.HasSuffix(missing.file, "/b.toml") {
		t.Errorf("%v", err)
	}
}
