package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/pyrsia/pyrsia-operator/node/cli"
	"github.com/pyrsia/pyrsia-operator/node/server"
)

// openPort is the node's port that is open to everyone.
const openPort = 8080

// forward is a command of the program pyrsia, which asks a node of the cluster.
func (c *cluster) forward(use, short string, args cobra.PositionalArgs) *cobra.Command {
	var output, file string
	name, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			address, closed, err := c.reach(cmd.Context())
			if err != nil {
				return err
			}
			defer closed()
			argv := append([]string{name, "--node", address}, args...)
			if output != "" {
				argv = append(argv, "--output", output)
			}
			if file != "" {
				argv = append(argv, "--out", file)
			}
			return runPyrsia(cmd, argv)
		},
	}
	if name == "log" || name == "proof" {
		cmd.Long = cli.LogHelp
	}
	if name == "proof" {
		cmd.Flags().StringVar(&file, "out", "", "file to write (default: standard output)")
	} else {
		cmd.Flags().StringVarP(&output, "output", "o", "", "table, or json for programs")
	}
	return cmd
}

// toNode opens a way to the open port of the node to ask.
func (c *cluster) toNode(ctx context.Context) (address string, closed func(), err error) {
	node, err := c.find(ctx)
	if err != nil {
		return "", nil, err
	}
	pod, err := c.pod(ctx, node)
	if err != nil {
		return "", nil, err
	}
	return tunnel(ctx, c.config, node.Namespace, pod)
}

// runPyrsia runs a command of the program pyrsia, which says itself what is wrong.
func runPyrsia(cmd *cobra.Command, argv []string) error {
	if status := cli.Main(cmd.Context(), argv, cmd.OutOrStdout(), cmd.ErrOrStderr()); status != 0 {
		return errors.New("the command failed")
	}
	return nil
}

// tunnel opens a way to a pod's open port, as a URL on this machine, through
// the API server's proxy (kubernetes.io/docs/concepts/cluster-administration/proxies).
// It carries the user's credentials, so it only reads, only from that pod, and
// only for who knows a secret part of the URL.
func tunnel(ctx context.Context, config *rest.Config, namespace, pod string) (address string, closed func(), err error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return "", nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	apiServer, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return "", nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	target := apiServer.JoinPath("api/v1/namespaces", url.PathEscape(namespace), "pods", fmt.Sprintf("%s:%d", url.PathEscape(pod), openPort), "proxy")
	secret := "/" + rand.Text()
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.URL.Path = path.Join("/", target.Path, strings.TrimPrefix(r.In.URL.Path, secret))
			r.Out.URL.RawPath = ""
		},
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("opening a way to pod %s: %w", pod, err)
	}
	s := server.New(server.Pace(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, secret+"/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})))
	go func() { _ = s.Serve(l) }() // until it is closed
	return "http://" + l.Addr().String() + secret, func() { _ = s.Close() }, nil
}
