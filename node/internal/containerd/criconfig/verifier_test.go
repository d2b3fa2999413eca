package criconfig

import (
	"path/filepath"
	"strings"
	"testing"
)

// When containerd asks an image verifier, and when it silently does not.
func TestVerifier(t *testing.T) {
	const (
		dir    = "/opt/containerd/image-verifier/bin"
		plugin = "version = 2\n[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n"
	)
	for name, tc := range map[string]struct {
		version, content string
		dir              string
		others           []string
		want             Answer
		say              []string
	}{
		"by default":                {"2.4.2", "version = 2\n", dir, nil, Yes, []string{"asks pyrsia before each pull"}},
		"2.1":                       {"2.1.9", "version = 3\n", dir, nil, Yes, nil},
		"2.0 pulls without":         {"2.0.14", "version = 3\n", dir, nil, No, []string{"CRI of containerd 2.0 pulls without the transfer service", "2.1 or newer"}},
		"1.7 has none":              {"1.7.35", "version = 2\n", dir, nil, No, []string{"has no image verifiers", "2.1 or newer"}},
		"local pull":                {"2.4.2", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nuse_local_image_pull = true\n", dir, nil, No, []string{"says nothing of that", "because of use_local_image_pull = true in ", "restart"}},
		"downloads":                 {"2.2.9", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nmax_concurrent_downloads = 5\n", dir, nil, No, []string{"because of max_concurrent_downloads = 5"}},
		"a list":                    {"2.4.2", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nuse_local_image_pull = true\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n", dir, nil, No, []string{"1. first set config_path to one folder", "2. take that out"}},
		"a list by default":         {"2.4.2", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nuse_local_image_pull = true\n", dir, nil, No, []string{"1. first set config_path to one folder", "2. take that out"}},
		"three downloads":           {"2.2.9", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nmax_concurrent_downloads = 3\n", dir, nil, Yes, nil},
		"no downloads":              {"2.2.9", "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nmax_concurrent_downloads = 0\n", dir, nil, No, []string{"max_concurrent_downloads = 0"}},
		"mirrors":                   {"2.3.7", "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry.mirrors.\"reg.test\"]\nendpoint = []\n", dir, nil, No, []string{"because of registry.mirrors in "}},
		"an auth":                   {"2.3.7", "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry.auths.\"https://reg.test\"]\nusername = \"x\"\n", dir, nil, No, []string{"because of registry.auths in "}},
		"disabled":                  {"2.4.2", "version = 2\ndisabled_plugins = [\"io.containerd.image-verifier.v1.bindir\"]\n", dir, nil, No, []string{"disabled by ", "take "}},
		"CRI disabled":              {"2.4.2", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", dir, nil, No, []string{"does not serve CRI"}},
		"another bin_dir":           {"2.4.2", plugin + "bin_dir = \"/usr/lib/verifiers\"\n", dir, nil, No, []string{`its bin_dir is "/usr/lib/verifiers"`, "bin_dir = \"" + dir + "\""}},
		"that bin_dir":              {"2.4.2", plugin + "bin_dir = \"/usr/lib/verifiers\"\n", "/usr/lib/verifiers/", nil, Yes, nil},
		"no bin_dir":                {"2.4.2", "version = 2\n", "/usr/lib/verifiers", nil, No, []string{"no bin_dir is set, and its own is " + dir}},
		"no more than two":          {"2.4.2", plugin + "max_verifiers = 2\n", dir, []string{"a", "b"}, No, []string{"max_verifiers is 2", "number 3"}},
		"two, and it is the second": {"2.4.2", plugin + "max_verifiers = 2\n", dir, []string{"a", "z"}, Yes, nil},
		"none":                      {"2.4.2", plugin + "max_verifiers = 0\n", dir, nil, No, []string{"max_verifiers is 0"}},
		"all":                       {"2.4.2", plugin + "max_verifiers = -1\n", dir, strings.Split(strings.Repeat("a", 20), ""), Yes, nil},
		"a version not known":       {"", "version = 3\n", dir, nil, Unknown, []string{"containerd 2.0 does not ask", "containerd 2.1, 2.2, 2.3 or 2.4 asks"}},
		"no TOML":                   {"2.4.2", "version = x\n", dir, nil, Unknown, []string{"may ask pyrsia or not"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(lay(t, map[string]string{"config.toml": tc.content}), "config.toml")
			answer, text := Inspect(Query{File: file, CertsD: certsD, Version: tc.version}).Verifier(tc.dir, "pyrsia", tc.others)
			if answer != tc.want {
				t.Errorf("%s, want %s: %s", answer, tc.want, text)
			}
			if _, missing := inOrder(text, tc.say); missing != "" {
				t.Errorf("want %q in %s", missing, text)
			}
		})
	}
}
