// Package controllers sets the operator's controllers up: each is a package, which brings
// one kind of the API forward in steps; a step is a file, and has a condition.
// It imports them and what they share: boundaries_test.go says which package may import
// what. The command pyrsia-operator calls it.
package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/controllers/artifact"
	"github.com/pyrsia/pyrsia-operator/controllers/imageset"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/objects"
	"github.com/pyrsia/pyrsia-operator/controllers/pullhistory"
	"github.com/pyrsia/pyrsia-operator/controllers/pyrsianode"
)

// Config is what the controllers need besides a manager.
type Config struct {
	Keys *nodeclient.Keyring
	// NodeImage is the container image of PyrsiaNodes that name none, and of the
	// containers that run as root or on the host's network.
	NodeImage string
	// KeysEvery is how often the Secrets of a PyrsiaNode are written again while
	// its pods do not get ready or do not answer; 0 is a minute.
	KeysEvery time.Duration
	// KeyOverlap is for how long a publisher's old and new signing key both sign,
	// at least; 0 is a day.
	KeyOverlap time.Duration
	// Hosts is what PyrsiaNodes may reach on Kubernetes nodes.
	Hosts pyrsianode.HostRules
	// Metrics is where the status of the objects is shown.
	Metrics prometheus.Registerer
}

// LoadKeyring reads the operator's seeds from the Secret in its namespace, and makes
// them when there are none. c must not be a caching client: that would need the right
// to list Secrets. The seeds are rotated when they are older than lifetime.
func LoadKeyring(ctx context.Context, c client.Client, namespace string, lifetime time.Duration) (*nodeclient.Keyring, error) {
	return nodeclient.LoadKeyring(ctx, c, namespace, lifetime)
}

// CacheOptions keep out of the cache what the controllers do not read.
func CacheOptions(hosts pyrsianode.HostRules) cache.Options {
	return objects.CacheOptions(hosts.Namespace, hosts.Namespaces)
}

// Setup registers the controllers with a manager.
func Setup(ctx context.Context, mgr ctrl.Manager, config Config) error {
	if err := objects.SetupIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	config.Keys.RotateWhenElected(mgr.Elected())
	if err := mgr.Add(config.Keys); err != nil {
		return fmt.Errorf("adding the rotation of the control keys: %w", err)
	}
	if err := mgr.Add(&statusCollector{mgr.GetClient(), config.Metrics}); err != nil {
		return fmt.Errorf("adding the metrics of the objects: %w", err)
	}
	nodes := nodeclient.NewNodes(mgr.GetClient(), config.Keys, time.Now)
	sets := &imageset.Reconciler{Client: mgr.GetClient(), Nodes: nodes, Now: time.Now}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{
		pyrsianode.New(pyrsianode.Config{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("pyrsianode-controller"),
			Nodes: nodes, Keys: config.Keys, NodeImage: config.NodeImage,
			KeysEvery: config.KeysEvery, KeyOverlap: config.KeyOverlap, Hosts: config.Hosts, Now: time.Now,
		}),
		sets,
		&artifact.Reconciler{Client: mgr.GetClient(), Nodes: nodes, Saw: sets.Saw, Now: time.Now},
		&pullhistory.Reconciler{Client: mgr.GetClient(), Nodes: nodes, Now: time.Now},
	} {
		if err := r.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("setting up %T: %w", r, err)
		}
	}
	return nil
}
