package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// kept are what users keep: a publisher's key and its volume with the ledger.
var kept = []string{"secret/publisher-signing-key", "persistentvolumeclaim/data-publisher-0"}

// removePlain removes what `make deploy` and the samples brought. The key and
// the volume are the user's to delete.
func removePlain(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, "kubectl", "delete", "ois,pa,pn", "--all", "--timeout=180s"); err != nil {
		return err
	}
	if err := w.settingsRestored(ctx); err != nil {
		return err
	}
	if err := w.Show(ctx, "make", "--no-print-directory", "undeploy"); err != nil {
		return err
	}
	if err := w.nothingLeft(ctx, kept...); err != nil {
		return err
	}
	return w.Show(ctx, append([]string{"kubectl", "delete"}, kept...)...)
}

// removeHelm removes what the chart and the samples brought.
func removeHelm(ctx context.Context, w *Env) error {
	if err := w.Show(ctx, "kubectl", "delete", "ois,pa,pn", "--all", "--timeout=180s"); err != nil {
		return err
	}
	if err := w.settingsRestored(ctx); err != nil {
		return err
	}
	if err := w.Show(ctx, helm("uninstall", "pyrsia-operator", "--namespace", "pyrsia-system", "--wait")...); err != nil {
		return err
	}
	return w.nothingLeft(ctx, append(kept, "namespace/pyrsia-system",
		"apiservice.apiregistration.k8s.io/v1alpha1.pyrsia.io", // which the API server has for the CRDs
		"customresourcedefinition.apiextensions.k8s.io/artifacts.pyrsia.io",
		"customresourcedefinition.apiextensions.k8s.io/officialimagesets.pyrsia.io",
		"customresourcedefinition.apiextensions.k8s.io/pyrsianodes.pyrsia.io")...)
}

// listAll prints every object of every kind except events.
const listAll = `kubectl get "$(kubectl api-resources --verbs=list -o name | grep -vE '^(events|componentstatuses|nodes)' | paste -sd,)" -A --ignore-not-found \
	--no-headers -o custom-columns='K:.kind,NS:.metadata.namespace,N:.metadata.name,V:.apiVersion,M:.metadata.labels.app\.kubernetes\.io/managed-by' 2>/dev/null`

// nothingLeft looks at every kind of object there is. What is being deleted may
// take a moment.
func (w *Env) nothingLeft(ctx context.Context, but ...string) error {
	err := w.Await(ctx, "the objects of the project to go", leftLimit, func(ctx context.Context) (bool, string, error) {
		left, err := w.left(ctx)
		if err != nil {
			return false, "", err
		}
		left = slices.DeleteFunc(left, func(o string) bool { return slices.Contains(but, o) })
		return len(left) == 0, strings.Join(left, ", "), nil
	})
	if err == nil {
		fmt.Fprintf(w.Out, "Left are: %s.\n", strings.Join(but, ", "))
	}
	return err
}

// left are the objects of the project, as KIND/NAME.
func (w *Env) left(ctx context.Context) ([]string, error) {
	out, err := w.Output(ctx, "sh", "-c", listAll)
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 5 {
			continue
		}
		kind, namespace, name, version, manager := f[0], f[1], f[2], f[3], f[4]
		ours := manager == "pyrsia-operator" || strings.Contains(name, "pyrsia") ||
			namespace == "pyrsia-system" && name != "default" && name != "kube-root-ca.crt" ||
			namespace == "default" && (strings.Contains(name, "publisher") || strings.Contains(name, "mirror"))
		if !ours {
			continue
		}
		object := strings.ToLower(kind)
		if group, _, ok := strings.Cut(version, "/"); ok {
			object += "." + group
		}
		left = append(left, object+"/"+name)
	}
	return left, nil
}
