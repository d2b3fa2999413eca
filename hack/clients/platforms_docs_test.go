package clients

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pyrsia/pyrsia-operator/node/distributions"
)

const platformsFile = "../../docs/platforms.md"

const platformsHead = `# Platforms

What container runtimes do with a Pyrsia mirror, by version and by the way in which they pull. ` + "`make test-platforms`" + ` runs each of them, as it is
set up, against a publisher, two mirrors and an upstream registry, and writes this page; ` + "`make test-clients`" + ` checks those whose programs it has
built anyway (containerd 1.6.20 and 2.4.2, dockerd 29 with the containerd store, containers/image). Docker Hub's and quay.io's names lead to a stand-in that has all the content, also what is
not on the ledger or withdrawn, and counts who asks it. containerd is asked by CRI, as the kubelet asks it.

- *served*: pulled from the mirror, with the digest that the ledger has.
- *refused*: nothing was pulled; the number is that of the text below which the user is shown.
- *falls through*: pulled from the registry itself.
- *not run*: only the guess is known, which is in the tests.
- An asterisk: another outcome, or another text, was guessed before anything ran; see below.

`

const platformsTail = `
[clients.md](clients.md) has more that can go wrong, for fewer versions, and [containerd.md](containerd.md) what has each version of containerd read
its configuration.

## Not run

By their documentation, which the last column names: none of it was run here. Where the folder of containerd's registries is known, the rows of containerd
above hold for its version, and ` + "`pyrsia containerd status`" + ` tells on a machine whether containerd reads it.

| | set-up | sources |
| --- | --- | --- |
`

// notRun are the runtimes that could not be had.
var notRun = []struct {
	name, setUp string
	sources     []string
}{
	{"CRI-O", "`pyrsia registries install`, then `systemctl reload crio`: it reads containers-registries.conf(5), by the library of the row containers/image.",
		[]string{"https://github.com/cri-o/cri-o/blob/main/docs/crio.conf.5.md", "https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md"}},
	{"nerdctl", "`pyrsia containerd install`: it reads `/etc/containerd/certs.d` and `/etc/docker/certs.d` (`hosts_dir` in nerdctl.toml), as root. Rootless, it reads `~/.config/containerd/certs.d`, and cannot pull from 127.0.0.1.",
		[]string{"https://github.com/containerd/nerdctl/blob/main/docs/config.md", "https://github.com/containerd/nerdctl/blob/main/docs/registry.md"}},
}

// The document is what the tables say, and each wrong guess has its truth.
func TestPlatformsDocument(t *testing.T) {
	results := readResults(t)
	for _, p := range platforms() {
		if len(guesses[p.name]) != len(columns()) {
			t.Errorf("%s: %d guesses for %d columns", p.name, len(guesses[p.name]), len(columns()))
		}
		got, ran := results[p.name]
		if p.strict && got.Asked > 0 {
			t.Errorf("%s: %d requests went to registries", p.name, got.Asked)
		}
		for i, c := range columns() {
			_, known := truthOf(p.name, c.name)
			if wrong := ran && !isRight(guesses[p.name][i], got.Cells[c.name]); wrong != known {
				t.Errorf("%s, %s: guessed %s, seen %s; truths say why: %t", p.name, c.name, guesses[p.name][i], got.Cells[c.name], known)
			}
		}
	}
	for name := range results {
		if !slices.ContainsFunc(platforms(), func(p platform) bool { return p.name == name }) {
			t.Errorf("%s has results of %s, which is no platform", resultsFile, name)
		}
	}
	if *update {
		if err := os.WriteFile(platformsFile, []byte(platformsDocument(results)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(platformsFile)
	if err != nil || string(old) != platformsDocument(results) {
		t.Errorf("%s is not what %s and the tables say: write it anew by 'make test-platforms' (%v)", platformsFile, resultsFile, err)
	}
}

func isRight(guess string, got seen) bool {
	outcome, text, _ := strings.Cut(guess, ": ")
	return outcome == got.Outcome && strings.Contains(strings.ToLower(got.Text), strings.ToLower(text))
}

func truthOf(platform, column string) (text string, ok bool) {
	for _, tr := range truths {
		if tr.column == column && slices.Contains(tr.platforms, platform) {
			return tr.text, true
		}
	}
	return "", false
}

// platformsDocument is docs/platforms.md.
func platformsDocument(results map[string]result) string {
	var b strings.Builder
	b.WriteString(platformsHead)
	b.WriteString("| | set-up |")
	for _, c := range columns() {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	b.WriteString(" requests to registries |\n" + strings.Repeat("| --- ", len(columns())+3) + "|\n")
	var texts []string
	for _, p := range platforms() {
		fmt.Fprintf(&b, "| %s | %s |", p.name, p.setUp)
		got, ran := results[p.name]
		for i, c := range columns() {
			fmt.Fprintf(&b, " %s |", cell(got.Cells[c.name], guesses[p.name][i], ran, &texts))
		}
		switch {
		case !ran:
			b.WriteString(" not run |\n")
		case p.strict || got.Asked == 0:
			fmt.Fprintf(&b, " **%d** |\n", got.Asked)
		default:
			b.WriteString(" where it falls through |\n")
		}
	}
	b.WriteString("\n")
	for _, c := range columns() {
		fmt.Fprintf(&b, "- *%s*: %s\n", c.name, c.means)
	}
	b.WriteString("- *requests to registries*: in the whole row. Those that are strict send none, whatever happens.\n")
	b.WriteString("\n## What the user is shown\n\n")
	for i, text := range texts {
		fmt.Fprintf(&b, "%d. `%s`\n", i+1, strings.ReplaceAll(text, "`", "'"))
	}
	b.WriteString("\n## Where the guess was wrong\n\n")
	for _, tr := range truths {
		i := slices.IndexFunc(columns(), func(c column) bool { return c.name == tr.column })
		fmt.Fprintf(&b, "- *%s*, %s: guessed *%s*. %s\n", tr.column, strings.Join(tr.platforms, "; "), guesses[tr.platforms[0]][i], tr.text)
	}
	b.WriteString(platformsTail)
	for _, n := range notRun {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", n.name, n.setUp, links(n.sources))
	}
	for _, d := range distributions.All {
		setUp := "`spec.mirror.distribution: " + d.Name + "`, or `pyrsia containerd install --distribution " + d.Name + "`. "
		if d.CertsD == "" {
			setUp = ""
		}
		fmt.Fprintf(&b, "| %s | %s%s | %s |\n", d.Name, setUp, d.Note, links(d.Sources))
	}
	return b.String()
}

// cell is what the table has of a pull. The texts are numbered as they come.
func cell(got seen, guess string, ran bool, texts *[]string) string {
	if !ran {
		return "not run"
	}
	out := got.Outcome
	if got.Text != "" {
		i := slices.Index(*texts, got.Text)
		if i < 0 {
			i = len(*texts)
			*texts = append(*texts, got.Text)
		}
		out += fmt.Sprintf(" (%d)", i+1)
	}
	if !isRight(guess, got) {
		out += " \\*"
	}
	return out
}

func links(sources []string) string {
	var out []string
	for i, s := range sources {
		out = append(out, fmt.Sprintf("[%d](%s)", i+1, s))
	}
	return strings.Join(out, " ")
}
