package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// hostClaim is what a PyrsiaNode has of the Kubernetes nodes. It has it on all of
// them, wherever its pods run, and before all of other namespaces that want it
// later: who has a mirror's folder or port answers in its place. Within a
// namespace all is in the same hands, and may be shared by mirrors on different
// Kubernetes nodes.
type hostClaim struct {
	Folder string `json:"folder,omitempty"` // of a mirror's data
	Port   int32  `json:"port,omitempty"`   // at which a mirror listens
	// HostPort leads into a pod, also for who asks for it on the machine itself.
	// Of two pods with the same the scheduler keeps one away.
	HostPort int32 `json:"hostPort,omitempty"`
}

const (
	// maxClaims bounds those of one PyrsiaNode, whose pods may still have what its
	// spec named before.
	maxClaims = 4
	// maxRecorded bounds the PyrsiaNodes of one namespace that are recorded: all
	// namespaces share one ConfigMap, of 1 MiB at most.
	maxRecorded = 100
)

// wants is the claim of a PyrsiaNode's spec; was is what is recorded of it.
func wants(n *v1alpha1.PyrsiaNode, was *recorded) (c hostClaim) {
	if n.Spec.Role == v1alpha1.RoleMirror {
		c.Folder, c.Port = cmp.Or(n.Spec.Storage.HostPath, defaultFolder(n, was)), mirrorSpec(n).Port
	}
	if e := exposure(n); e != nil && e.Type == v1alpha1.ExposureHostPort {
		c.HostPort = e.Port
	}
	return c
}

// defaultFolder of a mirror that was there before keeps its ambiguous name.
func defaultFolder(n *v1alpha1.PyrsiaNode, was *recorded) string {
	old := oldFolder(n)
	if was != nil && was.Claims == nil || was.has(func(c hostClaim) bool { return c.Folder == old }) {
		return old
	}
	return path.Join(defaultHostRoot, folderName(n))
}

// folderName is of one mirror alone: no name has a '_' in it.
func folderName(n *v1alpha1.PyrsiaNode) string { return n.Namespace + "_" + n.Name }

// oldFolder is the same of a-b/c and of a/b-c.
func oldFolder(n *v1alpha1.PyrsiaNode) string {
	return path.Join(defaultHostRoot, n.Namespace+"-"+n.Name)
}

// with are the claims of a PyrsiaNode after it has got one. A mirror keeps those
// before: its pods have them until they are replaced, and containerd asks at the
// port meanwhile.
func (r *recorded) with(n *v1alpha1.PyrsiaNode, c hostClaim) []hostClaim {
	if n.Spec.Role != v1alpha1.RoleMirror || r == nil {
		return []hostClaim{c}
	}
	if len(r.Claims) > 0 && r.Claims[len(r.Claims)-1] == c {
		return r.Claims
	}
	claims := append(slices.Clone(r.Claims), c)
	return claims[max(0, len(claims)-maxClaims):]
}

func (r *recorded) has(what func(hostClaim) bool) bool {
	return r != nil && slices.ContainsFunc(r.Claims, what)
}

// everyNode is of mirrors that are new, and of those that were when they were recorded.
func (r *recorded) everyNode() bool { return r == nil || r.EveryNode }

// last is the newest claim that was granted.
func (r *recorded) last() hostClaim {
	if r == nil || len(r.Claims) == 0 {
		return hostClaim{}
	}
	return r.Claims[len(r.Claims)-1]
}

// taken are the rules that a claim breaks, because another namespace's
// PyrsiaNodes have some of it already. What a PyrsiaNode was granted nobody else's
// claim takes away; was is what is recorded of it.
func taken(n *v1alpha1.PyrsiaNode, was *recorded, c hostClaim, all map[types.UID]recorded, gone func(types.UID, recorded) bool) (out []refusal) {
	refuse := func(rule string, granted bool, why string, args ...any) {
		kind, _, _ := strings.Cut(rule, " ")
		if (!granted || slices.Contains(was.Keeps, rule)) && !slices.ContainsFunc(out, func(b refusal) bool { return strings.HasPrefix(b.rule, kind+" ") }) {
			out = append(out, refusal{rule, fmt.Sprintf(why, args...), true})
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(all)) {
		other := all[uid]
		if uid == n.UID || strings.HasPrefix(other.PyrsiaNode, n.Namespace+"/") {
			continue
		}
		for _, has := range other.Claims {
			port := c.samePort(has)
			folder := c.Folder != "" && has.Folder != "" && overlap(c.Folder, has.Folder)
			if port == 0 && !folder || gone(uid, other) {
				continue
			}
			if folder {
				refuse("hostPath of "+other.PyrsiaNode, was.has(func(w hostClaim) bool { return w.Folder == c.Folder }),
					"the folder %s on the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.storage.hostPath", c.Folder, other.PyrsiaNode)
			}
			if port != 0 && port == c.Port {
				refuse("port of "+other.PyrsiaNode, was.has(func(w hostClaim) bool { return w.Port == port }),
					"the port %d of the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.mirror.port", port, other.PyrsiaNode)
			} else if port != 0 {
				refuse("hostPort of "+other.PyrsiaNode, was.has(func(w hostClaim) bool { return w.HostPort == port }),
					"the port %d of the Kubernetes nodes is that of the PyrsiaNode %s: give this one another spec.network.exposure.port", port, other.PyrsiaNode)
			}
		}
	}
	return out
}

// crowded is the rule that a new PyrsiaNode breaks whose namespace has many already.
func crowded(n *v1alpha1.PyrsiaNode, was *recorded, all map[types.UID]recorded, gone func(types.UID, recorded) bool) []refusal {
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
	return []refusal{{"number", fmt.Sprintf("%d PyrsiaNodes of namespace %s reach the Kubernetes nodes, and there may be no more: delete one, or make this one in another namespace", count, n.Namespace), true}}
}

// samePort is a port that two claims cannot both have; 0 if there is none.
func (c hostClaim) samePort(has hostClaim) int32 {
	switch {
	case c.Port != 0 && (c.Port == has.Port || c.Port == has.HostPort):
		return c.Port
	case c.HostPort != 0 && c.HostPort == has.Port:
		return c.HostPort
	}
	return 0
}

// overlap tells whether one of two folders is the other one, or in it.
func overlap(a, b string) bool {
	a, b = path.Clean(a)+"/", path.Clean(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
