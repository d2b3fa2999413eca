// Command permissions writes docs/permissions.md: every right that the operator
// has, from the generated roles, and why it needs it. A right without a reason,
// or a reason without a right, is an error.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// reasons say, by the scope and the resource, what a right is for.
var reasons = map[string]string{
	"cluster pods":                                   "Finds the addresses of nodes to ask over the control API, and what keeps a pod from being ready.",
	"cluster secrets":                                "Writes the control keys and the signing key of each PyrsiaNode into Secrets beside it. It never reads them; the answer to a patch would show one.",
	"cluster services":                               "Gives the nodes names in the cluster, and addresses outside of it where spec.network.exposure asks for one; deletes that Service when it does no more.",
	"cluster daemonsets.apps":                        "Runs mirrors and their frontends on each Kubernetes node, and the clean-up of containerd's set-up; deletes them in that order.",
	"cluster statefulsets.apps":                      "Runs publishers.",
	"cluster namespaces":                             "Sees whether an administrator has labelled a namespace for mirrors.",
	"cluster nodes":                                  "Counts the Kubernetes nodes that a mirror is for, and names those without one. Not where the operator works in named namespaces alone.",
	"cluster events.events.k8s.io":                   "Tells transitions to who watches an object.",
	"cluster artifacts.pyrsia.io":                    "Makes an Artifact for each image and digest of a set, and deletes those over the history's limit.",
	"cluster officialimagesets.pyrsia.io":            "Reads what is to be published; patches its own finalizer.",
	"cluster pyrsianodes.pyrsia.io":                  "Reads what is to run; patches its own finalizer.",
	"cluster artifacts/status.pyrsia.io":             "Writes what it has observed.",
	"cluster officialimagesets/status.pyrsia.io":     "Writes what it has observed.",
	"cluster pyrsianodes/status.pyrsia.io":           "Writes what it has observed.",
	"cluster officialimagesets/finalizers.pyrsia.io": "Owns the Artifacts that it makes, where the admission plugin OwnerReferencesPermissionEnforcement is on.",
	"cluster pyrsianodes/finalizers.pyrsia.io":       "Owns the pods that it makes, where the admission plugin OwnerReferencesPermissionEnforcement is on.",
	"own namespace events":                           "Tells which replica leads.",
	"own namespace secrets":                          "Makes the Secret of the control keys' seeds anew, should somebody have deleted it.",
	"own namespace secrets pyrsia-operator-seed":     "Reads and rotates the seeds of the control keys: the only Secret that it can read.",
	"own namespace configmaps":                       "Makes the record of mirrors anew, should somebody have deleted it.",
	"own namespace configmaps pyrsia-operator-hosts": "Records which PyrsiaNodes have reached Kubernetes nodes, so that they go on when a rule or a label changes, and which folder and ports each has there, so that no other gets them.",
	"own namespace leases.coordination.k8s.io":       "Is chosen among its replicas, so that two never act together.",
}

const head = `# Who may do what, and why

## What each role can reach

| Role | Rights | What that reaches |
|---|---|---|
| ` + "`view`" + ` (by *pyrsia-view*) | read PyrsiaNodes, OfficialImageSets, Artifacts | Public content, and addresses. No Secret. |
| ` + "`edit`" + ` (by *pyrsia-edit*) | also write OfficialImageSets and Artifacts | What the publishers of the namespace record on their ledgers, and so what every mirror serves that trusts them, in whatever cluster. Withdrawing images. |
| ` + "`admin`" + ` (by *pyrsia-admin*) | also write PyrsiaNodes | A publisher is a pod without privileges that runs spec.image and mounts the Secrets that its spec names: as much as whoever may create pods in that namespace, and no more. **Where mirrors are allowed**, also what the machines run: a mirror answers for the registries in its spec on each Kubernetes node that it selects, whichever namespace a pod is in. |
| ` + "`admin`" + ` (by *pyrsia-pin*) | pin Artifacts | Records a digest under a tag that its registry does not have there, as the publisher's own assertion. |
| ` + "`admin`" + ` (by *pyrsia-restore*) | restore withdrawn Artifacts | Lifts a withdrawal: every mirror that trusts the publisher serves the image again. |
| who may label namespaces, or set the chart's values | allow mirrors | Gives the admins of a namespace the line above. A PyrsiaNode does not make them root: containers with power have the operator's image. But mirrors need the Pod Security level ` + "`privileged`" + `, and whoever may create pods in such a namespace is root by an ordinary pod. Allow mirrors only where the cluster's own administrators are the admins, in a namespace with nothing else in it. |
| who may read Secrets in the operator's namespace | | The seeds of all control keys: all publishers and mirrors obey who has them. |
| who may write ConfigMaps there, or the ValidatingAdmissionPolicy | | The rules of the API server; the operator's own are its flags. |
| the operator | below | It makes pods with folders of the host: wherever it may create them, it is as good as root on the machines. |

The *pyrsia-* roles come with the installation, and add to the ones that every cluster has. None of them gives ` + "`status`" + ` or ` + "`finalizers`" + `, which the
operator believes: give these to nobody. The rules for mirrors are in [SECURITY.md](../SECURITY.md).

**Where the operator has its rights.** By default they hold in the whole cluster, because namespaces can be labelled at any time. With the chart's value
` + "`namespaces`" + ` (the operator's flag ` + "`--namespaces`" + `) it works in these and its own alone: it has a Role in each, which grants what is marked *cluster* below, and
no right in the cluster as a whole.

**What is added by a choice.** The chart's value ` + "`startupTaint.enabled`" + ` (or the component config/startup-taint) lets the operator patch Kubernetes nodes, for
` + "`spec.mirror.startupTaint`" + `. A ValidatingAdmissionPolicy comes with it by which this account can do nothing to a node but take the taint
` + "`pyrsia.io/mirror-not-proven`" + ` away: see [new-nodes.md](new-nodes.md).

## What the operator may do, and why

Written by ` + "`make manifests`" + ` from the markers in the code, which become [config/rbac/role.yaml](../config/rbac/role.yaml), the chart's and
config/default's roles. The tests run the operator with these rights alone; they fail where one is missing,
and where none of their requests uses one.

The nodes have no rights at all: no pod of a PyrsiaNode mounts a token of the API server. Only the containers *init-data*, *guard* and
*containerd* of a mirror's pods, which end before the others run, *keep*, which writes again what others change of containerd's set-up, and those that clean up after it, run as root, without
privileges: they give a folder of the host to the mirror's user, write containerd's registry configuration, and remove both. They have the operator's image, whatever spec.image says.

| Where | Resource | Verbs | Why |
|---|---|---|---|
`

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "permissions:", err)
		os.Exit(1)
	}
}

// right is one row.
type right struct{ scope, resource, verbs string }

func run(in io.Reader, out io.Writer) error {
	rights, err := read(in)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	text.WriteString(head)
	unused := make(map[string]bool, len(reasons))
	for key := range reasons {
		unused[key] = true
	}
	var errs []error
	for _, r := range rights {
		key := r.scope + " " + r.resource
		if reasons[key] == "" {
			errs = append(errs, fmt.Errorf("no reason is given for %q: add it in hack/permissions", key))
		}
		delete(unused, key)
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.scope, r.resource, r.verbs, reasons[key])
	}
	for key := range unused {
		errs = append(errs, fmt.Errorf("a reason is given for %q, which the operator may not do: remove it in hack/permissions", key))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = out.Write(text.Bytes())
	return err
}

// read reads a stream of a ClusterRole and a Role.
func read(in io.Reader) (rights []right, err error) {
	documents := yaml.NewYAMLOrJSONDecoder(in, 4096)
	for {
		var role rbacv1.Role // a ClusterRole's rules look the same
		if err := documents.Decode(&role); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading the roles: %w", err)
		}
		scope := map[string]string{"ClusterRole": "cluster", "Role": "own namespace"}[role.Kind]
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					name := strings.TrimSuffix(resource+"."+group, ".")
					if len(rule.ResourceNames) > 0 {
						name += " " + strings.Join(rule.ResourceNames, ", ")
					}
					rights = append(rights, right{scope, name, strings.Join(rule.Verbs, ", ")})
				}
			}
		}
	}
	slices.SortStableFunc(rights, func(a, b right) int { return cmp.Compare(a.scope, b.scope) })
	return rights, nil
}
