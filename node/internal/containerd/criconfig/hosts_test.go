package criconfig

import (
	"path/filepath"
	"strings"
	"testing"
)

// Which folder counts for a registry, and whether its hosts.toml does.
func TestHosts(t *testing.T) {
	const ours = "server = \"http://127.0.0.1:5001\"\n[host.\"http://127.0.0.1:5001\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	of := func(more string) string { return ours + more }
	for name, tc := range map[string]struct {
		files    map[string]string
		registry string
		folder   string
		content  string
		dropped  map[string]string // by version; "" is that it is not
	}{
		"our own":                        {map[string]string{"a/docker.io/hosts.toml": ours}, "docker.io", "a/docker.io", ours, map[string]string{"1.6.36": "", "2.4.2": ""}},
		"none":                           {map[string]string{"a/quay.io/hosts.toml": ours}, "docker.io", "", "", nil},
		"with a port":                    {map[string]string{"a/reg.test:5000/hosts.toml": ours}, "reg.test:5000", "a/reg.test:5000", ours, nil},
		"with a port, containerd's way":  {map[string]string{"a/reg.test:5000/hosts.toml": ours, "a/reg.test_5000_/hosts.toml": "# theirs"}, "reg.test:5000", "a/reg.test_5000_", "# theirs", nil},
		"an empty folder wins too":       {map[string]string{"a/reg.test:5000/hosts.toml": ours, "a/reg.test_5000_/ca.crt": ""}, "reg.test:5000", "a/reg.test_5000_", "", nil},
		"_default":                       {map[string]string{"a/_default/hosts.toml": "# theirs"}, "docker.io", "a/_default", "# theirs", nil},
		"_default comes last":            {map[string]string{"a/_default/hosts.toml": "# theirs", "a/docker.io/hosts.toml": ours}, "docker.io", "a/docker.io", ours, nil},
		"_default of the folder before":  {map[string]string{"a/_default/hosts.toml": "# theirs", "b/docker.io/hosts.toml": ours}, "docker.io", "a/_default", "# theirs", nil},
		"the folder after":               {map[string]string{"a/quay.io/hosts.toml": "# theirs", "b/docker.io/hosts.toml": ours}, "docker.io", "b/docker.io", ours, nil},
		"a capability":                   {map[string]string{"a/docker.io/hosts.toml": strings.Replace(ours, "\"pull\"", "\"pull\", \"referrers\"", 1)}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": `the capability "referrers", which containerd 1.6 does not know`, "1.7.35": "referrers", "2.0.14": "referrers", "2.1.9": "referrers", "2.2.9": "", "2.4.2": ""}},
		"another capability":             {map[string]string{"a/docker.io/hosts.toml": strings.Replace(ours, "\"pull\"", "\"Pull\", \"fly\"", 1)}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "fly", "2.4.2": "fly"}},
		"no TOML":                        {map[string]string{"a/docker.io/hosts.toml": of("x = y\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "line 4", "2.4.2": "line 4"}},
		"dial_timeout":                   {map[string]string{"a/docker.io/hosts.toml": of("  dial_timeout = \"1s\"\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "", "2.4.2": ""}},
		"dial_timeout that is none":      {map[string]string{"a/docker.io/hosts.toml": of("  dial_timeout = \"1 second\"\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "", "2.4.2": "no duration"}},
		"unknown key":                    {map[string]string{"a/docker.io/hosts.toml": of("  fly = true\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "", "2.4.2": ""}},
		"no host":                        {map[string]string{"a/docker.io/hosts.toml": "server = \"http://127.0.0.1:5001\"\n"}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "no [host] table", "1.7.31": "no [host] table", "1.7.32": "", "2.4.2": ""}},
		"ca, client, header":             {map[string]string{"a/docker.io/hosts.toml": of("  ca = [\"a\", \"b\"]\n  client = [[\"c\", \"k\"], \"b\"]\n  skip_verify = true\n  [host.\"http://127.0.0.1:5001\".header]\n    x = [\"1\"]\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "", "2.4.2": ""}},
		"ca of no kind":                  {map[string]string{"a/docker.io/hosts.toml": of("  ca = 7\n")}, "docker.io", "a/docker.io", "", map[string]string{"1.6.36": "of the wrong type", "2.4.2": "of the wrong type"}},
		"skip_verify of no kind":         {map[string]string{"a/docker.io/hosts.toml": of("  skip_verify = \"yes\"\n")}, "docker.io", "a/docker.io", "", map[string]string{"2.4.2": "line 4"}},
		"client of three":                {map[string]string{"a/docker.io/hosts.toml": of("  client = [[\"c\", \"k\", \"x\"]]\n")}, "docker.io", "a/docker.io", "", map[string]string{"2.4.2": "of the wrong type"}},
		"a header of no kind":            {map[string]string{"a/docker.io/hosts.toml": of("  header = {x = 1}\n")}, "docker.io", "a/docker.io", "", map[string]string{"2.4.2": "header"}},
		"a server that is no URL":        {map[string]string{"a/docker.io/hosts.toml": strings.Replace(ours, "server = \"http://127", "server = \"http://%zz127", 1)}, "docker.io", "a/docker.io", "", map[string]string{"2.4.2": "no URL"}},
		"an empty file is none of ours ": {map[string]string{"a/docker.io/hosts.toml": ""}, "docker.io", "a/docker.io", "", map[string]string{"2.4.2": "it is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := lay(t, tc.files)
			a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			config := filepath.Join(lay(t, map[string]string{"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nmax_concurrent_downloads = 4\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"" + a + ":" + b + "\"\n"}), "config.toml")
			if tc.dropped == nil {
				tc.dropped = map[string]string{"2.4.2": ""}
			}
			for version, want := range tc.dropped {
				report := Inspect(Query{File: config, CertsD: a, Version: version})
				if report.Reads() != Yes {
					t.Fatal(report)
				}
				got, err := report.Hosts(report.Judgements[0], tc.registry)
				if folder := filepath.Join(dir, tc.folder); err != nil || got.Folder != folder && tc.folder != "" || tc.folder == "" && got.Folder != "" {
					t.Errorf("%s: %q, want %q: %v", version, got.Folder, folder, err)
				}
				if tc.content != "" && string(got.Content) != tc.content {
					t.Errorf("%s: %s", version, got.Content)
				}
				if (got.Dropped == "") != (want == "") && got.Content != nil && !strings.HasPrefix(string(got.Content), "# theirs") || !strings.Contains(got.Dropped, want) {
					t.Errorf("%s: %q, want %q", version, got.Dropped, want)
				}
			}
		})
	}
}

func TestRegistryOf(t *testing.T) {
	for folder, want := range map[string]string{"docker.io": "docker.io", "reg.test_5000_": "reg.test:5000", "reg.test:5000": "reg.test:5000", "my_reg_": "my_reg_", "[::1]_5000_": "[::1]:5000"} {
		if got := RegistryOf(folder); got != want {
			t.Errorf("%s: %s, want %s", folder, got, want)
		}
	}
}
