package pyrsianode

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode/desired"
)

// HostRules are what PyrsiaNodes may reach on the Kubernetes nodes. The
// administrator sets them: without them, everyone who may create a PyrsiaNode
// would be root on every machine. The ValidatingAdmissionPolicy of the
// installation refuses what breaks them; the controller looks again before it
// applies anything.
type HostRules struct {
	// Namespace is the operator's own, which may always have mirrors.
	Namespace string
	// Namespaces are the only ones in which the operator works, and all of them
	// may have mirrors. If there are none, it works in every namespace, and
	// mirrors need the label on theirs.
	Namespaces []string
	// HostPathRoots are the folders directly below which mirrors may keep data. A
	// mirror owns its folder, and could put a link there in place of a deeper one.
	HostPathRoots []string
	// ContainerdConfigPaths are where mirrors may set containerd up.
	ContainerdConfigPaths []string
	// MirrorPorts are those at which mirrors may listen.
	MirrorPorts []PortRange
}

// PortRange is from one port to another, both included.
type PortRange struct{ First, Last int32 }

// ParsePortRanges reads a list of FIRST-LAST, or single ports, with commas between.
func ParsePortRanges(list string) (out []PortRange, err error) {
	for s := range strings.SplitSeq(list, ",") {
		p, err := parsePortRange(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePortRange(s string) (PortRange, error) {
	from, to, two := strings.Cut(s, "-")
	if !two {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || first > last {
		return PortRange{}, fmt.Errorf("%q is no range of ports: write it as 5001 or 5001-5100", s)
	}
	return PortRange{int32(first), int32(last)}, nil
}

func (p PortRange) String() string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p PortRange) has(port int32) bool { return p.First <= port && port <= p.Last }

func joinPorts(ranges []PortRange) string {
	out := make([]string, len(ranges))
	for i, p := range ranges {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}

// DefaultHostRules are the rules unless flags say otherwise.
func DefaultHostRules(namespace string) HostRules {
	return HostRules{
		Namespace:     namespace,
		HostPathRoots: []string{desired.DefaultHostRoot},
		ContainerdConfigPaths: []string{
			desired.DefaultConfigPath,
			"/etc/docker/certs.d", // containerd 2 looks there too
			"/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
			"/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
			"/etc/k0s/containerd.d/certs.d",
			"/var/snap/microk8s/current/args/certs.d",
		},
		MirrorPorts: []PortRange{{1024, 65535}}, // their user is not root
	}
}

// Check refuses rules that would allow everything, or nothing.
func (r HostRules) Check() error {
	if len(r.HostPathRoots) == 0 || len(r.ContainerdConfigPaths) == 0 || len(r.MirrorPorts) == 0 {
		return errors.New("no mirror could run: give --host-path-roots, --containerd-config-paths and --mirror-ports, or leave them out")
	}
	for _, p := range slices.Concat(r.HostPathRoots, r.ContainerdConfigPaths) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return fmt.Errorf("%q is no folder below '/': give absolute paths without '..' and without a '/' at the end", p)
		}
	}
	return nil
}

// Refusal is a rule that a PyrsiaNode breaks.
type Refusal struct {
	Rule    string // the rule and what breaks it, as it is recorded of those that may go on
	why     string // for people, with the line that mends it
	claimed bool   // because of what other PyrsiaNodes have, which may end
}

const (
	refusedNamespace  = "namespace"
	refusedConfigPath = "containerdConfigPath " // and the path
)

// HostFacts are what the rules depend on besides the PyrsiaNode.
type HostFacts struct {
	NamespaceAllowed bool
	Wants            desired.HostClaim
}

// reachesHosts tells whether the PyrsiaNode's pods reach the Kubernetes nodes
// themselves: mirrors by their folder, the host's network and containerd's
// set-up, others by a port of the host.
func reachesHosts(n *v1alpha1.PyrsiaNode) bool {
	e := desired.Exposure(n)
	return n.Spec.Role == v1alpha1.RoleMirror || e != nil && e.Type == v1alpha1.ExposureHostPort
}

// Refusals are the rules that a PyrsiaNode breaks.
func (r HostRules) Refusals(n *v1alpha1.PyrsiaNode, facts HostFacts) (out []Refusal) {
	refuse := func(rule, why string, args ...any) {
		out = append(out, Refusal{Rule: rule, why: fmt.Sprintf(why, args...)})
	}
	if reachesHosts(n) && !facts.NamespaceAllowed {
		mend := fmt.Sprintf("'kubectl label namespace %s %s=%s'", n.Namespace, objects.LabelMirrors, objects.MirrorsAllowed)
		if len(r.Namespaces) > 0 {
			mend = "adding it to the chart's value namespaces, which is the operator's flag --namespaces"
		}
		refuse(refusedNamespace, "mirrors, and nodes that are exposed by HostPort, reach the Kubernetes nodes themselves, which namespace %s is not allowed: an administrator allows it by %s", n.Namespace, mend)
	}
	for _, key := range slices.Sorted(maps.Keys(n.Spec.PodAnnotations)) {
		if runtimeAnnotation.MatchString(key) {
			refuse("podAnnotations "+key, "spec.podAnnotations must not tell the container runtime what to do, as %s does: take it out", key)
		}
	}
	if n.Spec.Role != v1alpha1.RoleMirror {
		return out
	}
	if at := facts.Wants.Folder; !r.allowsPath(at) {
		refuse("hostPath "+at, "spec.storage.hostPath %s is not a folder directly below %s: choose one by "+
			`kubectl -n %s patch pyrsianode %s --type merge -p '{"spec":{"storage":{"hostPath":"%s"}}}'`+
			", or have an administrator add its parent to the chart's value hostPathRoots",
			at, strings.Join(r.HostPathRoots, " or "), n.Namespace, n.Name, path.Join(r.HostPathRoots[0], folderName(n)))
	}
	if port := facts.Wants.Port; !slices.ContainsFunc(r.MirrorPorts, func(p PortRange) bool { return p.has(port) }) {
		refuse(fmt.Sprintf("port %d", port), "spec.mirror.port %d is not among %s: choose one of these, or have an administrator add it to the chart's value mirrorPorts", port, joinPorts(r.MirrorPorts))
	}
	if at := desired.MirrorSpec(n).ContainerdConfigPath; !slices.Contains(r.ContainerdConfigPaths, at) {
		refuse(refusedConfigPath+at, "spec.mirror.containerdConfigPath %s is none of %s: choose one of these, or have an administrator add it to the chart's value containerdConfigPaths",
			at, strings.Join(r.ContainerdConfigPaths, ", "))
	}
	return out
}

var oneFolder = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`) // as long as a name may be

func (r HostRules) allowsPath(p string) bool {
	return slices.ContainsFunc(r.HostPathRoots, func(root string) bool {
		name, ok := strings.CutPrefix(p, root+"/")
		return ok && oneFolder.MatchString(name)
	})
}

// runtimeAnnotation are the annotations by which the kubelet and container
// runtimes give a pod other confinement, devices or mounts.
var runtimeAnnotation = regexp.MustCompile(RuntimeAnnotations)

// RuntimeAnnotations is its expression, which the policy of the installation has too.
const RuntimeAnnotations = `^(container\.(apparmor|seccomp)\.security\.(alpha|beta)\.kubernetes\.io/|seccomp\.security\.alpha\.kubernetes\.io/|cdi\.k8s\.io/|io\.kubernetes\.cri-o\.|io\.katacontainers\.|io\.containerd\.|run\.oci\.|([a-z0-9-]+\.)*(crio\.io|nri\.io|nri\.containerd\.io|noderesource\.dev)/)`
