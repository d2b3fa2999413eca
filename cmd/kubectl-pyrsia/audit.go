package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/audit"
	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// What 'audit' exits with, beside 0 and 1.
const (
	exitFound      = 2 // something that --fail-on lists
	exitIncomplete = 3 // not all that was asked for could be seen
)

// staleHead stands in --fail-on for a ledger that its publisher has not signed for long.
const staleHead = "stale"

// auditOptions are the flags of 'audit'.
type auditOptions struct {
	everywhere bool
	files      []string
	failOn     []string
	key, url   string
	registries []string
	maxAge     time.Duration
}

func (c *cluster) auditCommand() *cobra.Command {
	var o auditOptions
	cmd := &cobra.Command{
		Use:   "audit [pod/NAME | KIND/NAME ...] [-f FILE]",
		Short: "Compare the images that are in use with the ledger",
		Long: `Compares each container image in use with the ledger: of the pods of a namespace,
of all (-A), of single pods or workloads, or of manifests (-f). What runs is told by
the digest that the container runtime reports, not by the tag in the spec; init and
ephemeral containers, image volumes and static pods are included. No registry is
asked. The verdicts, the gravest first:

  withdrawn   the publisher has withdrawn it
  unknown     the ledger has no block of this digest
  renamed     it is vouched for, under the name of another repository alone
  moved       it is vouched for, and its tag has a newer digest
  foreign     it is of a registry that no mirror is for
  vouched     the ledger vouches for it

That a block is on the ledger is proven on this machine, with the key that the
operator has pinned, or --key. That something is not on it, or not withdrawn, is the
word of the node that was asked: for a strict verdict ask a mirror of your own by --url.

Exit codes: 1 an error, 2 something that --fail-on lists, 3 not all was seen.`,
		Example: `  kubectl pyrsia audit
  kubectl pyrsia audit -A --fail-on withdrawn,unknown,stale
  kubectl pyrsia audit deploy/web -o wide
  kubectl pyrsia audit -A -o sarif > audit.sarif
  kubectl pyrsia audit -f manifests/`,
	}
	out := newOutput(cmd)
	f := cmd.Flags()
	f.Lookup("output").Usage = "wide, csv, sarif, json, yaml, jsonpath=TEMPLATE, jsonpath-file=FILE or jsonpath-as-json=TEMPLATE (default: a table)"
	f.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "audit the pods of all namespaces")
	f.StringSliceVarP(&o.files, "filename", "f", nil, "manifests, or folders of them, in place of what runs; - is the standard input")
	f.StringSliceVar(&o.failOn, "fail-on", nil, "exit with 2 if there is one of these: "+strings.Join(verdictNames(), ", ")+", "+staleHead)
	f.StringVar(&o.key, "key", "", "verifier key of the ledger (default: the one that the operator has pinned)")
	f.StringVar(&o.url, "url", "", "URL of the open port of the node to ask, such as http://127.0.0.1:8080 (default: the PyrsiaNode, through the API server)")
	f.StringSliceVar(&o.registries, "registry", nil, "registries that mirrors are for; _default is all (default: those of the cluster's mirrors)")
	f.DurationVar(&o.maxAge, "max-age", time.Hour, "how long ago the publisher may have signed the ledger before it is stale")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.check(args); err != nil {
			return err
		}
		r, err := c.audit(cmd.Context(), o, args)
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		switch out.format {
		case "csv":
			err = r.csv(w)
		case "sarif":
			err = r.sarif(w)
		default:
			err = out.print(w, r, func(wide bool) error { return r.table(w, wide) })
		}
		if err != nil {
			return err
		}
		return r.exit(o.failOn)
	}
	return cmd
}

func verdictNames() (out []string) {
	for _, v := range audit.Verdicts {
		out = append(out, string(v))
	}
	return out
}

func (o *auditOptions) check(args []string) error {
	for _, v := range o.failOn {
		if v != staleHead && !slices.Contains(verdictNames(), v) {
			return fmt.Errorf("--fail-on %s: want some of %s, %s", v, strings.Join(verdictNames(), ", "), staleHead)
		}
	}
	if len(o.files) > 0 && (len(args) > 0 || o.everywhere) || len(args) > 0 && o.everywhere {
		return errors.New("give one of -A, -f FILE and KIND/NAME")
	}
	return nil
}

// audit finds the images in use and has a node judge them.
func (c *cluster) audit(ctx context.Context, o auditOptions, args []string) (*auditReport, error) {
	var found inUse
	var err error
	switch {
	case len(args) > 0 || len(o.files) > 0:
		err = found.find(ctx, c, args, o.files)
	case o.everywhere:
		err = found.listAll(ctx, c.client, c.namespace)
	default:
		found.seen = []string{c.namespace}
		err = found.listPods(ctx, c.client, c.namespace, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the images in use: %w", err)
	}
	a := audit.Audit{MaxAge: o.maxAge}
	if a.Verifier, err = c.pinned(ctx, o.key); err != nil {
		return nil, err
	}
	if a.Registries, err = c.mirrored(ctx, o.registries); err != nil {
		return nil, err
	}
	if o.url != "" {
		a.Node = client.New(o.url, &http.Client{})
	} else if a.Node, err = c.reach(ctx); err != nil {
		return nil, err
	}
	head, findings, err := a.Run(ctx, found.images, time.Now())
	if err != nil {
		return nil, explain(err)
	}
	return newAuditReport(head, findings, &found), nil
}

// pinned is a verifier of the ledger's key: of the one given, or that the operator has
// pinned for the PyrsiaNode that is asked.
func (c *cluster) pinned(ctx context.Context, key string) (*ledger.Verifier, error) {
	if key == "" {
		node, err := c.find(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the ledger's key: %w; give --key", err)
		}
		if node.Status.Ledger == nil {
			return nil, fmt.Errorf("the PyrsiaNode %s has no verified ledger yet; give --key", node.Name)
		}
		key = cmp.Or(node.Status.Ledger.NewestKey, node.Status.Ledger.Key)
	}
	return ledger.NewVerifier(key)
}

// mirrored are the registries that mirrors are for: those given, or of the mirrors that
// the user may see.
func (c *cluster) mirrored(ctx context.Context, given []string) (out []string, err error) {
	if len(given) == 0 {
		var list v1alpha1.PyrsiaNodeList
		err := c.client.List(ctx, &list)
		if apierrors.IsForbidden(err) {
			err = c.client.List(ctx, &list, kube.InNamespace(c.namespace))
		}
		if err != nil {
			return nil, fmt.Errorf("listing the PyrsiaNodes: %w", err)
		}
		for _, n := range list.Items {
			if n.Spec.Mirror != nil {
				given = append(given, n.Spec.Mirror.Registries...)
			}
		}
		if len(given) == 0 {
			given = []string{"docker.io"}
		}
	}
	for _, name := range given {
		if name != "_default" {
			if name, err = ledger.CanonicalRegistry(name); err != nil {
				return nil, err
			}
		}
		out = append(out, name)
	}
	return out, nil
}
