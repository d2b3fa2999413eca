// Command demo shows the whole way of the data on a real cluster, step by
// step, and leaves the cluster running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
)

const explore = `
The cluster is still running. To explore it:

  eval "$(hack/cluster/cluster env)"
  kubectl get pn,ois,pa -o wide
  kubectl get artifacts -o yaml
  kubectl logs -n pyrsia-system deploy/pyrsia-operator
  hack/cluster/cluster exec w1 ctr -n k8s.io images ls

To end it and remove all that it has made on this machine:

  make demo-down
`

func main() {
	log.SetLogger(klog.Background()) // the API client's
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	upstream := flag.String("upstream", "", `"docker.io" publishes from Docker Hub; empty: from a registry on this machine`)
	flag.Parse()
	if *upstream != "" && *upstream != steps.DockerHub {
		return fmt.Errorf("upstream %q: want docker.io, or nothing for a registry on this machine", *upstream)
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the demo's cluster needs Linux, and this is %s; 'make deploy' installs the operator on any cluster", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("the demo's cluster is made of Linux namespaces, which needs root: run 'sudo make demo'")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	w := &steps.Env{Out: os.Stdout, Root: root, Upstream: *upstream}
	defer w.Close()
	all := steps.All(*upstream)
	start := time.Now()
	for i, s := range all {
		fmt.Printf("\n[%d/%d, %.0f s] ", i+1, len(all), time.Since(start).Seconds())
		if err := s.Do(ctx, w); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll %d steps passed in %.0f s:\n", len(all), time.Since(start).Seconds())
	for _, s := range all {
		fmt.Printf("  - %s: %s\n", s.Name, s.Proves)
	}
	fmt.Print(explore)
	return nil
}
