package criconfig

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Answer is whether something is so.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "not known"
)

// Pull is how CRI pulls images.
type Pull string

const (
	// LocalPull takes config_path for a list of folders.
	LocalPull Pull = "local pull"
	// TransferPull takes it for one folder, and alone asks image verifiers.
	TransferPull Pull = "transfer service"
)

// Judgement says how one release of containerd understands its configuration.
type Judgement struct {
	Release string // such as "2.4"
	Reads   Answer // whether its CRI plugin looks for hosts.toml in the folder
	Pull    Pull   // empty if CRI does not pull at all, or that is not known
	// Roots are the folders in which it looks, in this order, if it reads the one.
	Roots []string
	From  string   // file that has set them; empty if they are its own
	Why   string   // why not
	Steps []string // what to do then, in this order

	release  release
	same     func(a, b string) bool
	local    string // what keeps CRI from the transfer service
	verifier verifier
}

// refuse makes the judgement No.
func (j *Judgement) refuse(why string, steps ...string) {
	j.Reads, j.Why, j.Steps = No, why, append(steps, "restart containerd")
}

// judge tells whether a release with this configuration reads a certs.d. same
// tells whether two names are those of one folder.
func (r release) judge(c *configuration, certsD string, same func(a, b string) bool) Judgement {
	j := Judgement{Release: r.String(), Reads: Yes, release: r, same: same}
	l, trouble := r.load(c)
	if trouble == nil {
		trouble = r.wrongTypes(l)
	}
	if trouble != nil {
		j.refuse(trouble.why, trouble.steps...)
		return j
	}
	j.pulls(c, l, certsD)
	if trouble := r.disabled(l); trouble != nil {
		steps := trouble.steps
		if j.Reads == No { // also for what else there is
			steps = append(steps, j.Steps[:len(j.Steps)-1]...)
		}
		j.Pull, j.Roots, j.From = "", nil, ""
		j.refuse(trouble.why, steps...)
	}
	return j
}

// pulls finds out how CRI pulls, and where it looks for hosts.toml.
func (j *Judgement) pulls(c *configuration, l *loaded, certsD string) {
	r, same := j.release, j.same
	j.verifier = r.verifierOf(l)
	cri := l.plugins.sub(r.table(l))
	registry := cri.sub("registry")
	path, file, _ := value[string](registry, "config_path")
	emptied := ""
	if path == "" {
		emptied, file = file, ""
		if registry.sub("mirrors").size() == 0 || r.patch < r.alone {
			path = r.path
		}
	}
	set := r.set(c, l, cri, certsD)
	steps := r.inTheWay(registry, certsD)
	if len(steps) > 0 && path != "" {
		if !same(path, certsD) {
			steps = append(steps, "then "+set)
		}
		j.refuse(fmt.Sprintf("containerd's CRI plugin does not load, for config_path is set by %s, and so is what must not stand beside it", cmp.Or(file, "default")), steps...)
		return
	}
	j.Pull, j.local = r.pull(cri)
	if len(steps) > 0 {
		j.refuse("no config_path is set, but something is that must not stand beside one", append(steps, "then "+set)...)
		return
	}
	j.From, j.Roots = file, []string{path}
	if j.Pull == LocalPull {
		j.Roots = filepath.SplitList(path)
	}
	if !reaches(path, certsD, j.Pull, same) {
		j.refuse(r.whyNot(c, l, path, file, emptied, reaches(path, certsD, LocalPull, same)), set)
	}
}

// inTheWay is what must go before there may be a config_path (ValidateImageConfig,
// ValidatePluginConfig in 1.x): CRI is not served with both.
func (r release) inTheWay(registry *table, certsD string) (steps []string) {
	const kills = "with config_path beside it, containerd's CRI plugin does not load and the node is not ready"
	if mirrors := registry.sub("mirrors"); mirrors.size() > 0 {
		steps = append(steps, fmt.Sprintf("first take registry.mirrors out of %s: %s. What it says can stand in %s/NAME/hosts.toml", list(mirrors.files()), kills, certsD))
	}
	if tls := r.tls(registry); len(tls) > 0 {
		steps = append(steps, fmt.Sprintf("first take tls out of registry.configs in %s: %s. What it says can stand in %s/NAME/hosts.toml, as ca, client and skip_verify", list(tls), kills, certsD))
	}
	return steps
}

// reaches tells whether a certs.d is looked at with this config_path: the local
// pull splits it (registryHosts), the transfer service does not (WithHostDir).
func reaches(path, certsD string, pull Pull, same func(a, b string) bool) bool {
	if pull == TransferPull {
		return same(path, certsD)
	}
	return slices.ContainsFunc(filepath.SplitList(path), func(root string) bool { return same(root, certsD) })
}

// table is where a release has CRI's settings for pulls.
func (r release) table(l *loaded) string {
	switch {
	case r.major >= 2:
		return criImages
	case l.version < 2:
		return criV1
	}
	return criGRPC
}

// disabled finds out whether CRI is served at all.
func (r release) disabled(l *loaded) *trouble {
	needs := []string{criGRPC}
	if r.major < 2 && l.version < 2 {
		needs = []string{criV1}
	}
	if r.major >= 2 {
		needs = append(needs, criImages, criRuntime)
	}
	if r.transfer {
		needs = append(needs, transferPlugin)
	}
	if r.needsVerifier {
		needs = append(needs, verifierPlugin)
	}
	for _, plugin := range needs {
		if file, ok := l.disabled[plugin]; ok {
			whose := ""
			if plugin == criV1 || plugin == criGRPC {
				whose = " (as Docker's package of containerd brings it)"
			}
			return &trouble{
				fmt.Sprintf("containerd does not serve CRI, by which the kubelet pulls: %s has the plugin %q among disabled_plugins%s", file, strings.TrimPrefix(plugin, "io.containerd.grpc.v1."), whose),
				[]string{fmt.Sprintf("in %s, take it out of disabled_plugins", file)},
			}
		}
	}
	return nil
}

// wrongTypes finds what containerd could not decode: it does not start then.
func (r release) wrongTypes(l *loaded) *trouble {
	bad := func(t *table, key string, right func(v any) bool) *trouble {
		if t == nil {
			return nil
		}
		v, ok := t.of[key]
		if !ok || right(v) {
			return nil
		}
		file := t.file
		if s, ok := v.(setting); ok {
			file = s.file
		}
		return &trouble{fmt.Sprintf("containerd does not start: %s is of the wrong type in %s", key, file), []string{fmt.Sprintf("in %s, set it right or take it out", file)}}
	}
	isTable := func(v any) bool { _, ok := v.(*table); return ok }
	cri, registry := l.plugins.sub(r.table(l)), l.plugins.sub(r.table(l), "registry")
	for _, t := range []*trouble{
		bad(l.plugins, r.table(l), isTable),
		bad(cri, "registry", isTable),
		bad(registry, "config_path", is[string]),
		bad(registry, "mirrors", isTable), bad(registry, "configs", isTable), bad(registry, "auths", isTable),
		bad(cri, "use_local_image_pull", is[bool]), bad(cri, "max_concurrent_downloads", is[int64]),
	} {
		if t != nil {
			return t
		}
	}
	return nil
}

func is[T any](v any) bool {
	s, ok := v.(setting)
	if ok {
		_, ok = s.value.(T)
	}
	return ok
}

// tls are the files with TLS settings of registries, which 1.x does not take
// beside a config_path. 2.x does not know them.
func (r release) tls(registry *table) (files []string) {
	configs := registry.sub("configs")
	if r.major >= 2 || configs == nil {
		return nil
	}
	for host := range configs.of {
		if tls := configs.sub(host, "tls"); tls != nil {
			files = append(files, tls.files()...)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// pull tells how CRI pulls, and what keeps it from the transfer service
// (CheckLocalImagePullConfigs: the same in all versions from 2.1.0 to 2.4.2).
func (r release) pull(cri *table) (how Pull, local string) {
	if !r.transfer {
		return LocalPull, "containerd " + r.String() + " knows nothing else"
	}
	registry := cri.sub("registry")
	reason := func(name, file string) (Pull, string) { return LocalPull, fmt.Sprintf("%s in %s", name, file) }
	for _, key := range []string{"use_local_image_pull", "discard_unpacked_layers", "image_pull_with_sync_fs"} {
		if on, file, _ := value[bool](cri, key); on {
			return reason(key+" = true", file)
		}
	}
	if off, file, ok := value[bool](cri, "disable_snapshot_annotations"); ok && !off {
		return reason("disable_snapshot_annotations = false", file)
	}
	if n, file, ok := value[int64](cri, "max_concurrent_downloads"); ok && n != 3 {
		return reason(fmt.Sprintf("max_concurrent_downloads = %d (its default, 3, would not; the transfer service has a setting of its own)", n), file)
	}
	for _, key := range []string{"mirrors", "configs", "auths"} {
		if t := registry.sub(key); t.size() > 0 {
			return reason("registry."+key, list(t.files()))
		}
	}
	return TransferPull, ""
}
