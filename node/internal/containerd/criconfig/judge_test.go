package criconfig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const certsD = "/etc/containerd/certs.d"

// Versions of which the rules were read, and one of which hack/clients runs the
// program too.
var versions = []string{"1.6.20", "1.6.36", "1.7.35", "2.0.14", "2.1.9", "2.2.9", "2.3.7", "2.4.2"}

// outcome is a judgement in a word or two.
func outcome(j Judgement) string {
	switch {
	case j.Reads == Yes:
		return string(j.Pull)
	case j.Reads == Unknown:
		return "not known"
	case strings.HasPrefix(j.Why, "containerd does not start"):
		return "no start"
	case j.Pull == "":
		return "no CRI"
	}
	return "no, " + string(j.Pull)
}

// How each version understands each configuration. hack/clients has real ones
// pull with the same files.
func TestJudgements(t *testing.T) {
	const (
		local, transfer     = "local pull", "transfer service"
		noLocal, noTransfer = "no, local pull", "no, transfer service"
		noStart, noCRI      = "no start", "no CRI"
	)
	for file, want := range map[string][]string{
		// ------------------------ 1.6.20   1.6.36   1.7.35   2.0.14   2.1.9       2.2.9       2.3.7       2.4.2
		"configs-tls-and-path":      {noCRI, noCRI, noCRI, local, local, local, local, local},
		"mirrors-and-path":          {noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI},
		"mirrors-only":              {noLocal, noLocal, noLocal, noLocal, noLocal, noLocal, noLocal, noLocal},
		"path-list-v3":              {noLocal, noStart, noStart, local, noTransfer, noTransfer, noTransfer, noTransfer},
		"short-table-version-2":     {noStart, noStart, noStart, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"uri-table-without-version": {noLocal, noLocal, noLocal, noLocal, noTransfer, noTransfer, transfer, transfer},

		"annotations-list":                     {noLocal, noStart, noStart, local, local, local, local, local},
		"auth-only":                            {noLocal, noLocal, noLocal, noLocal, noLocal, local, local, local},
		"cri-disabled":                         {noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI},
		"discard-layers-list":                  {local, local, local, local, local, local, local, local},
		"discard-layers-without-runtimes-list": {local, local, local, local, noTransfer, noTransfer, noTransfer, noTransfer},
		"default-1.7":                          {noLocal, noLocal, noLocal, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"docker-package":                       {noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI, noCRI},
		"downloads-list":                       {local, local, local, local, local, local, local, local},
		"elsewhere":                            {noLocal, noLocal, noLocal, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"empty":                                {noLocal, noLocal, noLocal, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"local-pull":                           {noLocal, noStart, noStart, noLocal, noLocal, local, local, local},
		"no-such-file":                         {noLocal, noLocal, noLocal, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"sync-fs-list":                         {noLocal, noStart, noStart, local, local, local, local, local},
		"transfer-disabled":                    {local, local, local, local, noCRI, noCRI, noCRI, noCRI},
		"transfer-path":                        {noLocal, noStart, noStart, noLocal, noTransfer, noTransfer, noTransfer, noTransfer},
		"version-1":                            {local, local, local, noLocal, noTransfer, noTransfer, transfer, transfer},
		"version-2":                            {local, local, local, local, transfer, transfer, transfer, transfer},
		"version-3":                            {noLocal, noStart, noStart, local, transfer, transfer, transfer, transfer},
		"version-3-old-table":                  {local, noStart, noStart, noLocal, noTransfer, noTransfer, transfer, transfer},
		"version-4":                            {noLocal, noStart, noStart, noStart, noStart, noStart, transfer, transfer},
		"version-4-old-table":                  {local, noStart, noStart, noStart, noStart, noStart, noTransfer, noTransfer},
		"verifier-disabled":                    {local, local, local, local, noCRI, noCRI, transfer, transfer},
		"verifier-elsewhere":                   {local, local, local, local, transfer, transfer, transfer, transfer},
		"verifier-none":                        {local, local, local, local, transfer, transfer, transfer, transfer},
		"wrong-type":                           {noStart, noStart, noStart, noStart, noStart, noStart, noStart, noStart},
		"imported":                             {noLocal, local, local, local, transfer, transfer, transfer, transfer},
		"imported-over-the-table":              {local, noLocal, noLocal, local, transfer, transfer, transfer, transfer},
		"imported-mirrors":                     {local, noLocal, noLocal, noCRI, noCRI, noCRI, noCRI, noCRI},
		"imported-version-3":                   {local, noStart, noStart, noLocal, noTransfer, noTransfer, transfer, transfer},
	} {
		t.Run(file, func(t *testing.T) {
			name := filepath.Join("testdata", file+".toml")
			if strings.HasPrefix(file, "imported") {
				name = filepath.Join("testdata", file, "config.toml")
			}
			var got []string
			for _, v := range versions {
				report := Inspect(Query{File: name, CertsD: certsD, Version: v})
				got = append(got, outcome(report.Judgements[0]))
				checkWords(t, report)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", versions, diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) < 20 {
		t.Errorf("%v, %v", files, err)
	}
}

// checkWords checks the report for users: what to do, in the right order, and
// no secret.
func checkWords(t *testing.T, report *Report) {
	t.Helper()
	text := report.String()
	if strings.Contains(text, "secret") || strings.Contains(text, "somebody") {
		t.Errorf("it tells what is in the file: %s", text)
	}
	for _, j := range report.Judgements {
		if j.Reads == No && (len(j.Steps) < 2 || j.Steps[len(j.Steps)-1] != "restart containerd") {
			t.Errorf("it does not say what to do: %q", j.Steps)
		}
		set := slices.IndexFunc(j.Steps, func(s string) bool { return strings.Contains(s, "config_path = ") })
		for i, step := range j.Steps {
			if strings.Contains(step, "first take") && set >= 0 && i > set {
				t.Errorf("config_path is set before what kills CRI is gone: %q", j.Steps)
			}
		}
	}
}

// Steps are listed in the order in which they must be done.
func TestSteps(t *testing.T) {
	const grpc, images = `[plugins."io.containerd.grpc.v1.cri".registry]`, `[plugins."io.containerd.cri.v1.images".registry]`
	const path = "    config_path = \"" + certsD + "\"\n"
	for _, tc := range []struct {
		file, version string
		say           []string // in this order
	}{
		{"no-such-file", "1.6.36", []string{"write ", "version = 2", grpc, path}},
		{"no-such-file", "2.4.2", []string{"there is no ", both, "takes for the name of one folder", "write ", "version = 3", images, path}},
		{"empty", "2.4.2", []string{"no config_path is set in ", both, grpc, path}},
		{"empty", "1.7.35", []string{"no config_path is set in ", grpc, path}},
		{"mirrors-only", "1.6.36", []string{"first take registry.mirrors out of testdata/mirrors-only.toml", "then in testdata/mirrors-only.toml", grpc, path}},
		{"mirrors-and-path", "2.4.2", []string{"does not load", "first take registry.mirrors out of", "restart"}},
		{"configs-tls-and-path", "1.6.20", []string{"does not load", "first take tls out of registry.configs", "restart"}},
		{"path-list-v3", "2.1.9", []string{"config_path is \"" + both, "name of one folder", images, path}},
		{"short-table-version-2", "1.6.20", []string{"[plugins.cri]", "full name", `write [plugins."io.containerd.grpc.v1.cri"...] for each [plugins.cri...]`}},
		{"short-table-version-2", "2.4.2", []string{"[plugins.cri.registry], of which containerd 2.4 takes no notice", both, grpc, path}},
		{"uri-table-without-version", "1.6.36", []string{"takes no notice without 'version = 2'", "write 'version = 2' as the first line", grpc, path}},
		{"uri-table-without-version", "2.2.9", []string{"takes no notice", images, path}},
		{"version-1", "2.0.14", []string{"[plugins.cri.registry]", "takes no notice", images, path}},
		{"version-3-old-table", "2.1.9", []string{"takes no notice", images, path}},
		{"elsewhere", "2.4.2", []string{`its config_path is "/etc/docker/certs.d", by testdata/elsewhere.toml`, grpc, path}},
		{"docker-package", "1.7.35", []string{`has the plugin "cri" among disabled_plugins`, "take it out", "[plugins.cri.registry]", path}},
		{"transfer-disabled", "2.4.2", []string{transferPlugin, "take it out"}},
		{"version-4", "2.2.9", []string{"is of version 4, and this one takes 3 at most", "in the form of version 3"}},
	} {
		report := Inspect(Query{File: filepath.Join("testdata", tc.file+".toml"), CertsD: certsD, Version: tc.version})
		if rest, missing := inOrder(report.String(), tc.say); missing != "" {
			t.Errorf("%s, %s: want %q in %s\n(all: %s)", tc.file, tc.version, missing, rest, report)
		}
	}
}

// After following the steps, containerd reads the folder.
func TestMended(t *testing.T) {
	const grpc, images = `[plugins."io.containerd.grpc.v1.cri".registry]`, `[plugins."io.containerd.cri.v1.images".registry]`
	for name, tc := range map[string]struct{ version, content string }{
		"no-such-file 1.6":              {"1.6.20", "version = 2\n" + grpc},
		"no-such-file 2.4":              {"2.4.2", "version = 3\n" + images},
		"empty 2.4":                     {"2.4.2", "version = 2\n" + grpc},
		"uri-table-without-version 1.6": {"1.6.36", "version = 2\n" + grpc},
		"uri-table-without-version 2.2": {"2.2.9", grpc + "\n" + images},
		"version-1 2.0":                 {"2.0.14", "[plugins.cri.registry]\n  config_path = \"/x\"\n" + images},
		"version-3-old-table 2.1":       {"2.1.9", "version = 3\n" + grpc + "\n  config_path = \"/x\"\n" + images},
		"docker-package 1.7":            {"1.7.35", "[plugins.cri.registry]"},
		"docker-package 2.4":            {"2.4.2", images},
	} {
		dir := lay(t, map[string]string{"config.toml": tc.content + "\n  config_path = \"" + certsD + "\"\n"})
		if report := Inspect(Query{File: filepath.Join(dir, "config.toml"), CertsD: certsD, Version: tc.version}); report.Reads() != Yes {
			t.Errorf("%s: %s", name, report)
		}
	}
}

// inOrder finds texts one after the other.
func inOrder(text string, want []string) (rest, missing string) {
	for _, w := range want {
		_, after, ok := strings.Cut(text, w)
		if !ok {
			return text, w
		}
		text = after
	}
	return text, ""
}

// lay writes files into a folder.
func lay(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// How a later file is merged with an earlier one.
func TestImports(t *testing.T) {
	const (
		v2, v3, more = "version = 2\n", "version = 3\n", "imports = [\"conf.d/*.toml\"]\n"
		grpc         = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
		images       = "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
		other        = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/docker/certs.d\"\n"
		none         = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"\"\n"
		alone        = "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n"
		mirrors      = "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"reg.test\"]\nendpoint = [\"https://reg.example\"]\n"
	)
	for name, tc := range map[string]struct {
		main, imported string
		want           []string // of 1.6.36, 2.0.14, 2.4.2
		say            string   // by one of them
	}{
		"in an import":               {v2 + more, v2 + grpc, []string{"local pull", "local pull", "transfer service"}, ""},
		"overridden":                 {v2 + more + grpc, v2 + other, []string{"no, local pull", "no, local pull", "no, transfer service"}, `by DIR/conf.d/a.toml`},
		"overridden by nothing":      {v2 + more + grpc, v2 + none, []string{"no, local pull", "no, local pull", "no, transfer service"}, "DIR/conf.d/a.toml"},
		"a whole table in its place": {v2 + more + grpc, v2 + alone, []string{"no, local pull", "local pull", "transfer service"}, "takes the whole table of that plugin in DIR/conf.d/a.toml in its place"},
		"mirrors in an import":       {v2 + more + grpc, v2 + mirrors, []string{"no, local pull", "no CRI", "no CRI"}, "first take registry.mirrors out of DIR/conf.d/a.toml"},
		"an import of version 3":     {v2 + more + grpc, v3, []string{"no start", "no, local pull", "transfer service"}, "takes no notice"},
		"an import without version":  {v2 + more + grpc, "# nothing\n", []string{"local pull", "local pull", "transfer service"}, ""},
		"version in the import":      {more + grpc, v2, []string{"local pull", "local pull", "transfer service"}, ""},
		"new table, old import":      {v3 + more + images, v2 + alone, []string{"no, local pull", "local pull", "transfer service"}, ""},
		"CRI disabled in an import":  {v2 + more + grpc, v2 + "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", []string{"no CRI", "no CRI", "no CRI"}, "DIR/conf.d/a.toml has the plugin"},
		"no file of that pattern":    {v2 + "imports = [\"none.d/*.toml\"]\n" + grpc, v2 + other, []string{"local pull", "local pull", "transfer service"}, ""},
		"an import that is missing":  {v2 + "imports = [\"b.toml\"]\n" + grpc, "", []string{"no start", "no start", "no start"}, "imports DIR/b.toml, which is not there"},
		"a circle":                   {v2 + "imports = [\"config.toml\", \"conf.d/a.toml\"]\n", "imports = [\"../config.toml\"]\n" + v2 + grpc, []string{"local pull", "local pull", "transfer service"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := lay(t, map[string]string{"config.toml": tc.main, "conf.d/a.toml": tc.imported})
			var got []string
			said := false
			for _, v := range []string{"1.6.36", "2.0.14", "2.4.2"} {
				report := Inspect(Query{File: filepath.Join(dir, "config.toml"), CertsD: certsD, Version: v})
				got = append(got, outcome(report.Judgements[0]))
				checkWords(t, report)
				said = said || strings.Contains(report.String(), strings.ReplaceAll(tc.say, "DIR", dir))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !said {
				t.Errorf("none says %q", tc.say)
			}
		})
	}
}

// What changed within a series.
func TestPatches(t *testing.T) {
	for _, tc := range []struct{ file, version, want string }{
		{"mirrors-only", "2.2.1", "no CRI"}, // its own config_path stays beside them
		{"mirrors-only", "2.2.2", "no, local pull"},
		{"version-3-old-table", "1.7.16", "local pull"},
		{"version-3-old-table", "1.7.17", "no start"},
		{"version-3-old-table", "1.6.31", "local pull"},
		{"version-3-old-table", "1.6.32", "no start"},
		{"imported/config", "1.6.28", "no, local pull"}, // its pattern is looked for at /
		{"imported/config", "1.6.29", "local pull"},
		{"imported/config", "1.7.15", "no, local pull"},
		{"imported/config", "1.7.16", "local pull"},
	} {
		report := Inspect(Query{File: filepath.Join("testdata", tc.file+".toml"), CertsD: certsD, Version: tc.version})
		if got := outcome(report.Judgements[0]); got != tc.want {
			t.Errorf("%s, %s: %s, want %s: %s", tc.file, tc.version, got, tc.want, report)
		}
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"2.4.2": "2.4", "v2.4.2": "2.4", "1.6.20~ds1": "1.6", "containerd://2.0.4-k3s2": "2.0", "2.1.0-rc.1": "2.1", "1.7": "1.7",
		"1.4.13": "1.6", "2.9.1": "2.4", "3.0.0": "2.4",
	} {
		if got := releasesOf(text, 3); len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
	for config, want := range map[int]int{0: 7, 2: 7, 3: 5, 4: 2, 9: 7} {
		if got := releasesOf("", config); len(got) != want {
			t.Errorf("version %d of a file: %v", config, got)
		}
	}
}

// Which containerd it is may not be known: then all that could read the file are
// judged, and where they differ nothing is claimed.
func TestVersionThatIsNotKnown(t *testing.T) {
	for file, want := range map[string]Answer{"version-2": Yes, "version-3": Yes, "empty": No, "path-list-v3": Unknown, "version-1": Unknown} {
		report := Inspect(Query{File: filepath.Join("testdata", file+".toml"), CertsD: certsD})
		if got := report.Reads(); got != want {
			t.Errorf("%s: %s, want %s: %s", file, got, want, report)
		}
	}
	report := Inspect(Query{File: "testdata/path-list-v3.toml", CertsD: certsD})
	if _, missing := inOrder(report.String(), []string{"containerd 2.0 reads", "containerd 2.1, 2.2, 2.3 or 2.4 does not read"}); missing != "" {
		t.Errorf("want %q in %s", missing, report)
	}
	report = Inspect(Query{File: "testdata/version-9.toml", CertsD: certsD})
	if len(report.Judgements) == 0 {
		t.Error("a missing file is judged by nobody")
	}
}
