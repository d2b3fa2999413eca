// Command stargz is the stargz-snapshotter, as a program beside containerd:
//
//	stargz ROOT SOCKET CONFIG
//
// CONFIG is the snapshotter's own configuration. It finds registries as its
// containerd plugin does where that has [registry] config_path, and else as its
// program does, by [resolver].
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, socket, file string) (err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var config struct {
		service.Config
		Registry resolver.Registry `toml:"registry"`
	}
	if err := toml.Unmarshal(content, &config); err != nil {
		return err
	}
	var opts []service.Option
	if config.Registry.ConfigPath != "" {
		opts = append(opts, service.WithCustomRegistryHosts(resolver.RegistryHostsFromCRIConfig(ctx, config.Registry)))
	}
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &config.Config, opts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshotter.Close()) }()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	return server.Serve(l)
}
