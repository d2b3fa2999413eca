package criconfig

import (
	"fmt"
	"strings"
)

// verifier is what a configuration says of the image verifier plugin
// (plugins/imageverifier, the same from 2.0 to 2.4).
type verifier struct {
	disabledBy string // file
	dir, by    string // by is empty for the plugin's own
	max        int64  // programs that it calls, in the order of their names; negative: all
}

// ownVerifierDir is the bin_dir that the plugin has by default, on Linux.
const ownVerifierDir = "/opt/containerd/image-verifier/bin"

func (r release) verifierOf(l *loaded) verifier {
	v := verifier{disabledBy: l.disabled[verifierPlugin], dir: ownVerifierDir, max: 10}
	t := l.plugins.sub(verifierPlugin)
	if dir, file, ok := value[string](t, "bin_dir"); ok {
		v.dir, v.by = dir, file
	}
	if n, _, ok := value[int64](t, "max_verifiers"); ok {
		v.max = n
	}
	return v
}

// CallsVerifier tells whether this containerd asks a program before CRI pulls:
// one of the given name, among others in its folder. If not, why is the reason,
// and steps mend it.
func (j Judgement) CallsVerifier(dir, program string, others []string) (answer Answer, why string, steps []string) {
	place := int64(1) // it lists its folder by name
	for _, name := range others {
		if name < program {
			place++
		}
	}
	table := fmt.Sprintf("[plugins.%q]", verifierPlugin)
	switch {
	case j.Reads == Unknown:
		return Unknown, j.Why, j.Steps
	case j.release.major < 2:
		return No, fmt.Sprintf("containerd %s has no image verifiers", j.Release), j.toTransfer("update containerd to 2.1 or newer")
	case j.Pull == "":
		return No, j.Why, j.Steps
	case !j.release.transfer:
		return No, fmt.Sprintf("CRI of containerd %s pulls without the transfer service, which alone asks them: only other clients, such as ctr, have their images checked", j.Release), j.toTransfer("update containerd to 2.1 or newer")
	case j.Pull != TransferPull:
		return No, fmt.Sprintf("CRI pulls without the transfer service, which alone asks them, because of %s", j.local), j.toTransfer("take that out of containerd's configuration", "restart containerd")
	case j.verifier.disabledBy != "":
		return No, "the plugin is disabled by " + j.verifier.disabledBy, []string{fmt.Sprintf("in %s, take %q out of disabled_plugins", j.verifier.disabledBy, verifierPlugin), "restart containerd"}
	case !j.same(j.verifier.dir, dir) && j.verifier.by == "":
		return No, fmt.Sprintf("no bin_dir is set, and its own is %s", j.verifier.dir), []string{fmt.Sprintf("in containerd's configuration, have\n\n  %s\n    bin_dir = %q\n", table, dir), "restart containerd"}
	case !j.same(j.verifier.dir, dir):
		return No, fmt.Sprintf("its bin_dir is %q, by %s", j.verifier.dir, j.verifier.by), []string{fmt.Sprintf("install the program there, or in %s have\n\n  %s\n    bin_dir = %q\n", j.verifier.by, table, dir), "restart containerd"}
	case j.verifier.max >= 0 && place > j.verifier.max:
		return No, fmt.Sprintf("max_verifiers is %d, and by its name the program is number %d in the folder", j.verifier.max, place), []string{fmt.Sprintf("in containerd's configuration, have\n\n  %s\n    max_verifiers = -1\n", table), "restart containerd"}
	}
	return Yes, "", nil
}

// toTransfer are steps after which CRI pulls through the transfer service:
// before that config_path must not be a list, or no hosts.toml counts any more.
func (j Judgement) toTransfer(steps ...string) []string {
	if len(j.Roots) < 2 {
		return steps
	}
	first := fmt.Sprintf("first set config_path to one folder: it is now %q, which the transfer service takes for the name of one, so that no hosts.toml would count any more", strings.Join(j.Roots, ":"))
	return append([]string{first}, steps...)
}

// Verifier tells whether containerd asks an image verifier, in words too.
func (r *Report) Verifier(dir, program string, others []string) (Answer, string) {
	answer := agreed(r.Judgements, func(j Judgement) Answer {
		answer, _, _ := j.CallsVerifier(dir, program, others)
		return answer
	})
	return answer, r.say(func(j Judgement) string {
		switch answer, why, steps := j.CallsVerifier(dir, program, others); answer {
		case Yes:
			return fmt.Sprintf("asks %s before each pull of CRI.\n", program)
		case Unknown:
			return fmt.Sprintf("may ask %s or not: %s.\n", program, why)
		default:
			return fmt.Sprintf("does not ask %s, and says nothing of that: %s.\n", program, why) + toMend(steps)
		}
	})
}
