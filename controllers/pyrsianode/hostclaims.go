package pyrsianode

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

const (
	// maxClaims bounds those of one PyrsiaNode, whose pods may still have what its
	// spec named before.
	maxClaims = 4
	// maxRecorded bounds the PyrsiaNodes of one namespace that are recorded: all
	// namespaces share one ConfigMap, of 1 MiB at most.
	maxRecorded = 100
)

// Wants is the claim of a PyrsiaNode's spec; was is what is recorded of it.
func Wants(n *v1alpha1.PyrsiaNode, was *recorded) (c desired.HostClaim) {
	if n.Spec.Role == v1alpha1.RoleMirror {
		c.Folder, c.Port = cmp.Or(n.Spec.Storage.HostPath, defaultFolder(n, was)), desired.MirrorSpec(n).Port
	}
	if e := desired.Exposure(n); e != nil && e.Type == v1alpha1.ExposureHostPort {
		c.HostPort = e.Port
	}
	return c
}

// defaultFolder of a mirror that was there before keeps its ambiguous name.
func defaultFolder(n *v1alpha1.PyrsiaNode, was *recorded) string {
	old := oldFolder(n)
	if was != nil && was.Claims == nil || was.has(func(c desired.HostClaim) bool { return c.Folder == old }) {
		return old
	}
	return path.Join(desired.DefaultHostRoot, folderName(n))
}

// folderName is of one mirror alone: no name has a '_' in it.
func folderName(n *v1alpha1.PyrsiaNode) string { return n.Namespace + "_" + n.Name }

// oldFolder is the same of a-b/c and of a/b-c.
func oldFolder(n *v1alpha1.PyrsiaNode) string {
	return path.Join(desired.DefaultHostRoot, n.Namespace+"-"+n.Name)
}

// with are the claims of a PyrsiaNode after it has got one. A mirror keeps those
// before: its pods have them until they are replaced, and containerd asks at the
// port meanwhile.
func (r *recorded) with(n *v1alpha1.PyrsiaNode, c desired.HostClaim) []desired.HostClaim {
	if n.Spec.Role != v1alpha1.RoleMirror || r == nil {
		return []desired.HostClaim{c}
	}
	if len(r.Claims) > 0 && r.Claims[len(r.Claims)-1] == c {
		return r.Claims
	}
	claims := append(slices.Clone(r.Claims), c)
	return claims[max(0, len(claims)-maxClaims):]
}

func (r *recorded) has(what func(desired.HostClaim) bool) bool {
	return r != nil && slices.ContainsFunc(r.Claims, what)
}

// EveryNode is of mirrors that are new, and of those that were when they were recorded.
func (r *recorded) everyNode() bool { return r == nil || r.EveryNode }

// last is the newest claim that was granted.
func (r *recorded) last() desired.HostClaim {
	if r == nil || len(r.Claims) == 0 {
		return desired.HostClaim{}
	}
	return r.Claims[len(r.Claims)-1]
}

// taken are the rules that a claim breaks, because another namespace's PyrsiaNodes
// have some of it already. A claim of another PyrsiaNode never takes away what was
// granted; was is the recorded state of this one.
func taken(n *v1alpha1.PyrsiaNode, was *recorded, c desired.HostClaim, all map[types.UID]recorded, gone func(types.UID, recorded) bool) (out []Refusal) {
	refuse := func(rule string, granted bool, why string, args ...any) {
		kind, _, _ := strings.Cut(rule, " ")
		if (!granted || slices.Contains(was.Keeps, rule)) && !slices.ContainsFunc(out, func(b Refusal) bool { return strings.HasPrefix(b.Rule, kind+" ") }) {
			out = append(out, Refusal{rule, fmt.Sprintf(why, args...), true})
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(all)) {
		other := all[uid]
		if uid == n.UID || strings.HasPrefix(other.PyrsiaNode, n.Namespace+"/") {
			continue
		}
		for _, has := range other.Claims {
			port := c.SamePort(has)
			folder := c.Folder != "" && has.Folder != "" && overlap(c.Folder, has.Folder)
			if port == 0 && !folder || gone(uid, other) {
				continue
			}
			if folder {
				refuse("hostPath of "+other.PyrsiaNode, was.has(func(w desired.HostClaim) bool { return w.Folder == c.Folder }),
					"the folder %s on the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.storage.hostPath", c.Folder, other.PyrsiaNode)
			}
			if port != 0 && port == c.Port {
				refuse("port of "+other.PyrsiaNode, was.has(func(w desired.HostClaim) bool { return w.Port == port }),
					"the port %d of the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.mirror.port", port, other.PyrsiaNode)
			} else if port != 0 {
				refuse("hostPort of "+other.PyrsiaNode, was.has(func(w desired.HostClaim) bool { return w.HostPort == port }),
					"the port %d of the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.network.exposure.port", port, other.PyrsiaNode)
			}
		}
	}
	return out
}

// crowded is the rule that a new PyrsiaNode breaks whose namespace has many already.
func crowded(n *v1alpha1.PyrsiaNode, was *recorded, all map[types.UID]recorded, gone func(types.UID, recorded) bool) []Refusal {
	if was != nil {
		return nil
	}
	count := 0
	for uid, other := range all {
		if strings.HasPrefix(other.PyrsiaNode, n.Namespace+"/") && !gone(uid, other) {
			count++
		}
	}
	if count < maxRecorded {
		return nil
	}
	return []Refusal{{"number", fmt.Sprintf("%d PyrsiaNodes of namespace %s reach the Kubernetes nodes, and there may be no more: delete one, or make this one in another namespace", count, n.Namespace), true}}
}

// overlap tells whether one of two folders is the other one, or in it.
func overlap(a, b string) bool {
	a, b = path.Clean(a)+"/", path.Clean(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
