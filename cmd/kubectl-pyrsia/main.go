// Command kubectl-pyrsia is a plugin of kubectl: 'kubectl pyrsia' asks the
// ledger of a cluster. It reads the cluster's objects, and reaches the nodes'
// open, read-only port through the API server, so it needs no right that the
// user of the kubeconfig does not have. It writes Artifacts alone, to withdraw an
// image.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth/exec" // credentials of managed clusters
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/node/client"
)

func main() {
	log.SetLogger(klog.Background()) // the API client's
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := new(cluster)
	c.reach = c.toNode
	if err := command(c).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kubectl pyrsia:", err)
		if e, ok := errors.AsType[*exitError](err); ok {
			os.Exit(e.code)
		}
		os.Exit(1)
	}
}

// exitError ends the program with a code of its own.
type exitError struct {
	code   int
	reason string
}

func (e *exitError) Error() string { return e.reason }

// cluster is the cluster of the kubeconfig.
type cluster struct {
	flags *genericclioptions.ConfigFlags
	node  string // the PyrsiaNode to ask; empty: the publisher

	// reach gives a way to a node's open port.
	reach func(context.Context) (*client.Client, error)

	config    *rest.Config
	client    kube.Client
	namespace string
}

func command(c *cluster) *cobra.Command {
	c.flags = genericclioptions.NewConfigFlags(true)
	root := &cobra.Command{
		Use:   "kubectl-pyrsia",
		Short: "Ask the transparency log of this cluster, and withdraw images from it",
		Long: `Asks the Pyrsia nodes of this cluster, through the API server, what their ledger
says of an image, and checks proofs on this machine. 'audit' compares all images in
use with the ledger; 'revoke' has an image withdrawn.`,
		Example: `  kubectl pyrsia status
  kubectl pyrsia log alpine:3.20
  kubectl pyrsia log alpine:3.20 -o jsonpath='{[0].height}'
  kubectl pyrsia verify alpine:3.20
  kubectl pyrsia audit -A
  kubectl pyrsia revoke alpine:3.20@sha256:... --reason 'contains malware'`,
		SilenceUsage: true, SilenceErrors: true,
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl pyrsia"},
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.connect() },
	}
	c.flags.AddFlags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&c.node, "pyrsianode", "", "PyrsiaNode to ask (default: the namespace's publisher, else any that is ready)")
	root.AddCommand(c.logCommand(), c.proofCommand(), c.statusCommand(), c.peersCommand(), c.verifyCommand(), c.auditCommand(), c.planCommand(), c.revokeCommand())
	return root
}

func (c *cluster) connect() error {
	var err error
	if c.namespace, _, err = c.flags.ToRawKubeConfigLoader().Namespace(); err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if c.config, err = c.flags.ToRESTConfig(); err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	c.client, err = kube.New(c.config, kube.Options{Scheme: scheme})
	return err
}
