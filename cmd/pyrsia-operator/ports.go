package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/pyrsia/pyrsia-operator/node/server"
)

// portBounds are for Prometheus and the kubelet, which have a few connections
// each. Other clients in the cluster get no more.
var portBounds = server.Bounds{Total: 256, PerAddress: 32}

// portDrain is how long an answer may go on at the end.
const portDrain = 5 * time.Second

// ports are the operator's HTTP servers. The manager's own would have no bound
// on connections and on the time for a request's body and for an answer.
func ports(ctx context.Context, c config) (out []manager.Runnable, err error) {
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }
	health := http.NewServeMux()
	for _, path := range []string{"/healthz", "/healthz/", "/readyz", "/readyz/"} {
		health.HandleFunc(path, ok)
	}
	measured := http.NewServeMux()
	measured.Handle("/metrics", promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	drain := portDrain
	for _, p := range []struct {
		name, addr string
		handler    http.Handler
	}{{"metrics", c.metricsAddr, measured}, {"health", c.healthAddr, health}} {
		if p.addr == "0" {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", p.addr)
		if err != nil {
			return nil, fmt.Errorf("serving %s: %w", p.name, err)
		}
		log := slog.New(logr.ToSlogHandler(ctrl.Log.WithName(p.name)))
		out = append(out, &manager.Server{Name: p.name, Server: server.New(server.Pace(p.handler)),
			Listener: server.Limit(l, portBounds, log), ShutdownTimeout: &drain})
	}
	return out, nil
}
