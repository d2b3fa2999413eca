package ledger

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("5b3e6f1a", 8)
	hub := func(name, tag string) Image { return Image{"docker.io", "library/" + name, tag} }
	for text, want := range map[string]struct {
		names  []Image
		digits string
	}{
		"alpine":                       {[]Image{hub("alpine", "latest")}, ""},
		" alpine:3.20\n":               {[]Image{hub("alpine", "3.20")}, ""},
		`"alpine:3.20"`:                {[]Image{hub("alpine", "3.20")}, ""},
		"registry-1.docker.io/org/x:1": {[]Image{{"docker.io", "org/x", "1"}}, ""},
		"docker://alpine:3.20":         {[]Image{hub("alpine", "3.20")}, ""},
		"cafe":                         {[]Image{hub("cafe", "latest")}, ""},

		"sha256:" + whole:             {nil, whole},
		whole:                         {nil, whole},
		strings.ToUpper(whole):        {nil, whole},
		"sha256:" + whole[:13]:        {nil, whole[:13]},
		whole[:12]:                    {[]Image{hub(whole[:12], "latest")}, whole[:12]},
		whole[:13]:                    {[]Image{hub(whole[:13], "latest")}, whole[:13]},
		"alpine@sha256:" + whole:      {[]Image{hub("alpine", "")}, whole},
		"alpine:3.20@sha256:" + whole: {[]Image{hub("alpine", "3.20")}, whole},
		"docker-pullable://alpine@sha256:" + whole:           {[]Image{hub("alpine", "")}, whole},
		"docker.io/library/alpine@sha256:" + whole[:12]:      {[]Image{hub("alpine", "")}, whole[:12]},
		"quay.io/org/x@sha256:" + whole:                      {[]Image{{"quay.io", "org/x", ""}}, whole},
		"127.0.0.1:5001/library/alpine:3.20":                 {[]Image{{"127.0.0.1:5001", "library/alpine", "3.20"}, hub("alpine", "3.20")}, ""},
		"127.0.0.1:5001/alpine":                              {[]Image{{"127.0.0.1:5001", "alpine", "latest"}, hub("alpine", "latest")}, ""},
		"localhost:5001/quay.io/org/x:1":                     {[]Image{{"localhost:5001", "quay.io/org/x", "1"}, {"quay.io", "org/x", "1"}}, ""},
		"[::1]:5001/library/alpine:3.20":                     {[]Image{{"[::1]:5001", "library/alpine", "3.20"}, hub("alpine", "3.20")}, ""},
		"127.0.0.1:5001/reg.example:5000/x:1":                {[]Image{{"reg.example:5000", "x", "1"}}, ""},
		"127.0.0.1:5001/library/alpine@sha256:" + whole:      {[]Image{{"127.0.0.1:5001", "library/alpine", ""}, hub("alpine", "")}, whole},
		"127.0.0.1:5001/library/alpine:3.20@sha256:" + whole: {[]Image{{"127.0.0.1:5001", "library/alpine", "3.20"}, hub("alpine", "3.20")}, whole},
		"registry.example:5000/library/alpine:3.20":          {[]Image{{"registry.example:5000", "library/alpine", "3.20"}}, ""},
		"localhost/alpine:1":                                 {[]Image{{"localhost", "alpine", "1"}}, ""},
	} {
		got, err := ParseReference(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want.names, got.Names); diff != "" || got.Digits != want.digits {
			t.Errorf("%q: digits %q, want %q; names (-want +got):\n%s", text, got.Digits, want.digits, diff)
		}
	}
}

// A name that does not mean a single image is refused with what to give
// instead.
func TestWhatNamesNoImage(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("5b3e6f1a", 8)
	for text, says := range map[string]string{
		"":                                  "names no image",
		"  ":                                "names no image",
		"alpine 3.20 5b3e6f1a5b3e":          "more than one word",
		"is alpine:3.20 on the ledger?":     "more than one word",
		"<none>:<none>":                     "no name",
		"sha256:5b3e6f…":                    "cut off",
		"alpine@sha256:5b3e6f...":           "cut off",
		"containerd://" + whole:             "a container's ID",
		"docker://" + whole:                 "a container's ID",
		"https://hub.docker.com/_/alpine":   "a URL",
		"sha256:5b3e6f":                     "6 digits",
		"sha256:" + whole + "0":             "65 digits",
		whole + "0":                         "65 digits",
		"sha256:nonsense":                   "hexadecimal",
		"alpine@5b3e6f1a5b3e":               "sha256:DIGITS",
		"alpine@" + "sha512:" + whole:       "sha256:DIGITS",
		"@sha256:" + whole:                  "no image's name",
		"Alpine:3.20":                       "no image's name",
		"alpine:3.20:1":                     "no image's name",
		strings.Repeat("a/", maxReference):  "bytes",
		"alpine:3.20@sha256:" + whole + "@": "hexadecimal",
	} {
		_, err := ParseReference(text)
		if _, ok := errors.AsType[*ReferenceError](err); !ok || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "NAME:TAG") {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func TestAttestationsAreNoPlatforms(t *testing.T) {
	t.Parallel()
	a := artifact(alpine, "index")
	attested := func(content string) Platform {
		p := artifact(alpine, content).Platforms[0]
		p.Platform = UnknownPlatform
		return p
	}
	a.Platforms = append(a.Platforms, artifact(alpine, "arm").Platforms[0], attested("of amd64"), attested("of arm"))
	if got := a.Images(); len(got) != 2 || got[0] != a.Platforms[0] || got[1] != a.Platforms[1] {
		t.Errorf("got %v", got)
	}
	// An image without an index that says nothing of its platform is one.
	a.Platforms = []Platform{attested("alone")}
	a.Digest = a.Platforms[0].Digest
	if got := a.Images(); len(got) != 1 {
		t.Errorf("without an index: %v", got)
	}
}
