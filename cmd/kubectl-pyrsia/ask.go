package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/report"
)

// openPort is the node's port that is open to everyone.
const openPort = 8080

func (c *cluster) logCommand() *cobra.Command {
	var l report.LogOptions
	cmd := &cobra.Command{
		Use: "log [IMAGE|DIGEST]", Short: "Show the newest blocks of the ledger, or what it says of an image", Long: report.LogHelp, Args: cobra.MaximumNArgs(1),
		Example: `  kubectl pyrsia log --since 24h
  kubectl pyrsia log --repository 'docker.io/library/*' --follow
  kubectl pyrsia log alpine:3.20 -o wide`,
	}
	o := newOutput(cmd)
	cmd.Flags().Lookup("output").Usage = "wide, csv, json, yaml, jsonpath=TEMPLATE, jsonpath-file=FILE or jsonpath-as-json=TEMPLATE (default: a table)"
	l.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := l.Filter(len(args) > 0, time.Now())
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		show := func(blocks []ledger.BlockJSON, first bool) error {
			if o.format == "csv" {
				return report.CSV(w, blocks, first)
			}
			return o.print(w, append([]ledger.BlockJSON{}, blocks...), func(wide bool) error { return report.Blocks(w, blocks, wide, first) })
		}
		if len(args) == 0 {
			node, err := c.reach(cmd.Context())
			if err != nil {
				return err
			}
			return explain(l.Show(cmd.Context(), node, filter, show))
		}
		node, blocks, err := c.blocks(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if len(blocks) == 0 && (o.format == "" || o.format == "wide") {
			return report.Absent(args[0], node.String())
		}
		return show(blocks, true)
	}
	return cmd
}

func (c *cluster) proofCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "proof IMAGE|DIGEST", Short: "Fetch the proof that an image is on the ledger", Long: report.ImageHelp, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, blocks, err := c.blocks(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(blocks) == 0 {
				return report.Absent(args[0], node.String())
			}
			proof, withdrawn, err := node.Proof(cmd.Context(), blocks[0].Height)
			if err != nil {
				return explain(err)
			}
			return report.Proof(cmd.OutOrStdout(), cmd.ErrOrStderr(), file, proof, withdrawn)
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "file to write (default: standard output)")
	return cmd
}

func (c *cluster) statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how a node is: its ledger, its peers, its content", Args: cobra.NoArgs}
	o := newOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		node, err := c.reach(cmd.Context())
		if err != nil {
			return err
		}
		s, err := node.Status(cmd.Context())
		if err != nil {
			return explain(err)
		}
		return o.print(cmd.OutOrStdout(), s, func(bool) error { return report.Status(cmd.OutOrStdout(), s) })
	}
	return cmd
}

func (c *cluster) peersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "peers", Short: "Show a node's peers", Args: cobra.NoArgs}
	o := newOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		node, err := c.reach(cmd.Context())
		if err != nil {
			return err
		}
		peers, err := node.Peers(cmd.Context())
		if err != nil {
			return explain(err)
		}
		return o.print(cmd.OutOrStdout(), peers, func(bool) error { return report.Peers(cmd.OutOrStdout(), peers) })
	}
	return cmd
}

// blocks asks a node which blocks a person means.
func (c *cluster) blocks(ctx context.Context, what string) (*client.Client, []ledger.BlockJSON, error) {
	ref, err := ledger.ParseReference(what)
	if err != nil {
		return nil, nil, err
	}
	node, err := c.reach(ctx)
	if err != nil {
		return nil, nil, err
	}
	blocks, err := node.Find(ctx, ref)
	return node, blocks, explain(err)
}

// toNode is a way to the open port of a pod of the node to ask: the API server's
// proxy (kubernetes.io/docs/concepts/cluster-administration/proxies), with the
// credentials of the kubeconfig. A Client only reads.
func (c *cluster) toNode(ctx context.Context) (*client.Client, error) {
	node, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	pod, err := c.pod(ctx, node)
	if err != nil {
		return nil, err
	}
	toAPIServer, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	apiServer, _, err := rest.DefaultServerUrlFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	proxy := apiServer.JoinPath("api/v1/namespaces", url.PathEscape(node.Namespace), "pods", fmt.Sprintf("%s:%d", url.PathEscape(pod), openPort), "proxy")
	return client.New(proxy.String(), toAPIServer), nil
}

// explain says of the API server's refusal what right is missing.
func explain(err error) error {
	if refused, ok := errors.AsType[*client.StatusError](err); ok && refused.Code == http.StatusForbidden {
		return fmt.Errorf("%w; asking a node takes the right to get pods/proxy in its namespace", err)
	}
	return err
}
