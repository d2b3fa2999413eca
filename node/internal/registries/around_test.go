package registries

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What has clients pull around the node is refused with Strict, told with Fallback,
// and found by status when it comes later.
func TestWhatLeadsAround(t *testing.T) {
	for name, tt := range map[string]struct {
		file, content string
		around        string // what it says; empty: it leads nowhere else
	}{
		"a longer prefix before":       {ownDropIn, "[[registry]]\nlocation = \"docker.io/library\"\n", "docker.io/library"},
		"a longer prefix in the main":  {"etc/containers/registries.conf", "[[registry]]\nprefix = \"quay.io/org/image\"\nlocation = \"quay.io/org/image\"\n", "quay.io/org/image"},
		"a longer prefix of the user":  {"home/.config/containers/registries.conf.d/a.conf", "[[registry]]\nlocation = \"docker.io/library\"\n", "docker.io/library"},
		"a longer prefix, blocked":     {ownDropIn, "[[registry]]\nlocation = \"docker.io/library\"\nblocked = true\n", ""},
		"blocked, with a mirror":       {ownDropIn, "[[registry]]\nlocation = \"docker.io/library\"\nblocked = true\n[[registry.mirror]]\nlocation = \"mirror.example\"\n", "docker.io/library"},
		"the same prefix before":       {ownDropIn, "[[registry]]\nlocation = \"docker.io\"\n", ""},
		"the same prefix in the main":  {"etc/containers/registries.conf", "[[registry]]\nlocation = \"docker.io\"\n", ""},
		"the same prefix after":        {"etc/containers/registries.conf.d/zzz.conf", "[[registry]]\nlocation = \"docker.io\"\n", "zzz.conf"},
		"the same prefix of the user":  {"home/.config/containers/registries.conf.d/a.conf", "[[registry]]\nlocation = \"quay.io/\"\n", "a.conf"},
		"a registry-1 after":           {"etc/containers/registries.conf.d/zzz.conf", "[[registry]]\nlocation = \"registry-1.docker.io\"\n", "registry-1.docker.io"},
		"the user's own configuration": {"home/.config/containers/registries.conf", "", "takes the place of all of"},
		"another registry":             {ownDropIn, "[[registry]]\nlocation = \"docker.iox\"\n[[registry]]\nlocation = \"x.quay.io\"\n", ""},
		"a wildcard as long as it":     {"etc/containers/registries.conf.d/zzz.conf", "[[registry]]\nprefix = \"*.example.com\"\nlocation = \"reg.example\"\n", "*.example.com"},
		"a longer one of the vendor":   {"usr/share/containers/registries.conf.d/a.conf", "[[registry]]\nlocation = \"docker.io/library\"\n", "usr/share"},
		"the same of the vendor after": {"usr/share/containers/registries.conf.d/zzz.conf", "[[registry]]\nlocation = \"docker.io\"\n", "zzz.conf"},
		"the same for root after":      {"etc/containers/registries.rootful.conf.d/zzz.conf", "[[registry]]\nlocation = \"docker.io\"\n", "rootful"},
		"the same of the vendor":       {"usr/share/containers/registries.conf.d/a.conf", "[[registry]]\nlocation = \"docker.io\"\n", ""},
		"of the same name":             {"home/.config/containers/registries.conf.d/" + dropInName, "", "do not read the drop-in"},
		"no .conf":                     {"etc/containers/registries.conf.d/zzz.txt", "[[registry]]\nlocation = \"docker.io\"\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, map[string]string{tt.file: tt.content})
			s.Registries = append(s.Registries, "a.example.com")
			want := tree(t, s)
			around, err := s.Install(mirror, Strict)
			if tt.around == "" {
				if err != nil || len(around) > 0 {
					t.Errorf("Strict: %v, %v", around, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.around) {
				t.Errorf("Strict: %v, want %q", err, tt.around)
			}
			if diff := cmp.Diff(want, tree(t, s)); diff != "" {
				t.Errorf("refused, and changed (-before +after):\n%s", diff)
			}
			if around, err := s.Install(mirror, Fallback); err != nil || len(around) == 0 || !strings.Contains(errors.Join(around...).Error(), tt.around) {
				t.Errorf("Fallback: %v, %v", around, err)
			}

			// The same, but it comes after.
			s = lay(t, nil)
			s.Registries = append(s.Registries, "a.example.com")
			if _, err := s.Install(mirror, Strict); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(rootOf(s), tt.file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(tt.content), 0o644)); err != nil {
				t.Fatal(err)
			}
			if _, around, err := s.Status(); err != nil || len(around) == 0 || !strings.Contains(errors.Join(around...).Error(), tt.around) {
				t.Errorf("status: %v, %v", around, err)
			}
		})
	}
}

// Settings in the environment of clients are found wherever they can be read.
func TestEnvironmentLeadsAround(t *testing.T) {
	const given = "ROOT/given.conf"
	const other, longer = "[[registry]]\nlocation = \"ghcr.io\"\n", "[[registry]]\nlocation = \"docker.io/library\"\n"
	for name, tt := range map[string]struct {
		env    map[string]string // of this process
		files  map[string]string
		around string // what it says; empty: it leads nowhere else
	}{
		"nothing of files":       {map[string]string{"HOME": "/root"}, nil, ""},
		"empty":                  {map[string]string{mainVariable: ""}, nil, ""},
		"here":                   {map[string]string{mainVariable: given}, map[string]string{"given.conf": other}, "given.conf, set in the environment here"},
		"a file that is not":     {map[string]string{mainVariable: given}, nil, "given.conf, set in the environment here"},
		"the drop-in itself":     {map[string]string{mainVariable: "ROOT/etc/containers/registries.conf.d/" + dropInName}, nil, ""},
		"at logins":              {nil, map[string]string{"etc/environment": "# of all\n" + mainVariable + "=\"" + given + "\"\n"}, "etc/environment, has clients"},
		"CRI-O's unit":           {nil, map[string]string{"units/crio.service": "[Service]\nEnvironment=A=b " + mainVariable + "=" + given + "\n"}, "the unit crio.service"},
		"its drop-in":            {nil, map[string]string{"units/crio.service": "[Service]\n", "units/crio.service.d/a.conf": "[Service]\nEnvironment=" + mainVariable + "=" + given + "\n"}, "the unit crio.service"},
		"its file":               {nil, map[string]string{"units/crio.service": "[Service]\nEnvironmentFile=-ROOT/crio\n", "crio": mainVariable + "=" + given + "\n"}, "the unit crio.service"},
		"podman's unit":          {nil, map[string]string{"units/podman.service": "[Service]\nEnvironment=" + mainVariable + "=" + given + "\n"}, "the unit podman.service"},
		"containers.conf":        {nil, map[string]string{"etc/containers/containers.conf": "[engine]\nenv = [\"A=b\", \"" + mainVariable + "=" + given + "\", {append = true}]\n"}, "containers.conf"},
		"a drop-in of it":        {nil, map[string]string{"usr/share/containers/containers.conf.d/a.conf": "[engine]\nenv = [\"" + mainVariable + "=" + given + "\"]\n"}, "a.conf"},
		"of a container":         {nil, map[string]string{"etc/containers/containers.conf": "[containers]\nenv = [\"" + mainVariable + "=" + given + "\"]\n"}, ""},
		"no containers.conf":     {nil, map[string]string{"etc/containers/containers.conf": "["}, ""},
		"last, longer":           {map[string]string{lastVariable: given}, map[string]string{"given.conf": longer}, "given.conf has a [[registry]] of its own for docker.io/library"},
		"last, the same":         {map[string]string{lastVariable: given}, map[string]string{"given.conf": "[[registry]]\nlocation = \"docker.io\"\n"}, "given.conf has a [[registry]] of its own for docker.io,"},
		"last, another":          {map[string]string{lastVariable: given}, map[string]string{"given.conf": other}, ""},
		"the old name":           {map[string]string{oldVariable: given}, map[string]string{"given.conf": "[[registry]]\nlocation = \"docker.io\"\n"}, ""}, // the drop-in comes after it
		"the old name, longer":   {map[string]string{oldVariable: given}, map[string]string{"given.conf": longer}, "given.conf has a [[registry]] of its own for docker.io/library"},
		"both names":             {map[string]string{mainVariable: given, oldVariable: given}, map[string]string{"given.conf": other}, "set in the environment here"},
		"a podman before 6 only": {map[string]string{mainVariable: given}, map[string]string{"given.conf": longer}, "given.conf has a [[registry]] of its own for docker.io/library"},
	} {
		t.Run(name, func(t *testing.T) {
			s := lay(t, nil)
			root := rootOf(s)
			atRoot := func(text string) string { return strings.ReplaceAll(text, "ROOT", root) }
			for file, content := range tt.files {
				file = filepath.Join(root, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(atRoot(content)), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			s.Getenv = func(name string) string { return atRoot(tt.env[name]) }
			s.Login, s.Units = filepath.Join(root, "etc/environment"), []string{filepath.Join(root, "units")}
			around, err := s.Install(mirror, Strict)
			if tt.around == "" {
				if err != nil || len(around) > 0 {
					t.Fatalf("Strict: %v, %v", around, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.around) {
				t.Errorf("Strict: %v, want %q", err, tt.around)
			}
			if around, err = s.Install(mirror, Fallback); err != nil || (len(around) > 0) != (tt.around != "") {
				t.Errorf("Fallback: %v, %v", around, err)
			}
			if _, around, err = s.Status(); err != nil || (len(around) > 0) != (tt.around != "") || !strings.Contains(fmt.Sprint(errors.Join(around...)), tt.around) && tt.around != "" {
				t.Errorf("status: %v, %v, want %q", around, err, tt.around)
			}
			// What the drop-in says, in the file that is read in its place.
			if file := tt.env[mainVariable]; file == given {
				content, err := os.ReadFile(s.dropIn())
				if err == nil {
					err = os.WriteFile(atRoot(file), content, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, around, err := s.Status(); err != nil || len(around) > 0 {
					t.Errorf("with a copy of the drop-in: %v, %v", around, err)
				}
			}
		})
	}
}
