package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
)

var (
	descCondition = desc("condition", "Conditions of PyrsiaNodes and OfficialImageSets: 1 for the status that each has.", "kind", "type", "status")
	descPods      = desc("node_pods", "Pods of a PyrsiaNode.", "state")
	descBlocks    = desc("node_ledger_blocks", "Blocks of a PyrsiaNode's ledger that the operator has verified; of a mirror, that all its pods have.")
	descImages    = desc("imageset_images", "Tags of an OfficialImageSet.", "state")
	descBytes     = desc("imageset_bytes", "Size of the images that an OfficialImageSet's Artifacts record.")
	descResolved  = desc("imageset_last_resolved_timestamp_seconds", "When all tags of an OfficialImageSet were last resolved and something had changed.")
	descRemaining = desc("imageset_upstream_remaining", "Requests that the upstream registry still grants in its window, as it said last.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pyrsia_operator_"+name, help, append([]string{"namespace", "name"}, labels...), nil)
}

// statusCollector shows the status of PyrsiaNodes and OfficialImageSets, as the
// operator that leads knows it, to Prometheus.
type statusCollector struct {
	client.Reader
	registry prometheus.Registerer
}

// Start implements manager.Runnable.
func (c *statusCollector) Start(ctx context.Context) error {
	if err := c.registry.Register(c); err != nil {
		return fmt.Errorf("registering the metrics of the objects: %w", err)
	}
	<-ctx.Done()
	c.registry.Unregister(c)
	return nil
}

// Describe implements prometheus.Collector.
func (c *statusCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descCondition, descPods, descBlocks, descImages, descBytes, descResolved, descRemaining} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *statusCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // for a cache that is not filled yet
	defer cancel()
	nodes, sets := new(v1alpha1.PyrsiaNodeList), new(v1alpha1.OfficialImageSetList)
	if err := c.List(ctx, nodes); err != nil {
		out <- prometheus.NewInvalidMetric(descPods, err)
	}
	if err := c.List(ctx, sets); err != nil {
		out <- prometheus.NewInvalidMetric(descImages, err)
	}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		g := gauges{out, n, "PyrsiaNode"}
		g.conditions()
		if p := n.Status.Nodes; p != nil {
			g.set(descPods, float64(p.Desired), "desired")
			g.set(descPods, float64(p.Ready), "ready")
			g.set(descPods, float64(p.Configured), "configured")
			g.set(descPods, float64(p.Proven), "proven")
		}
		if l := n.Status.Ledger; l != nil {
			g.set(descBlocks, float64(l.Size))
		}
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		g := gauges{out, set, "OfficialImageSet"}
		s := set.Status
		g.conditions()
		g.set(descImages, float64(s.Published), "published")
		g.set(descImages, float64(s.Pending), "pending")
		g.set(descImages, float64(s.Failed), "failed")
		g.set(descBytes, float64(s.Bytes))
		if s.LastResolvedTime != nil {
			g.set(descResolved, float64(s.LastResolvedTime.Unix()))
		}
		if s.RateLimit != nil {
			g.set(descRemaining, float64(s.RateLimit.Remaining))
		}
	}
}

// gauges are the metrics of one object.
type gauges struct {
	out  chan<- prometheus.Metric
	of   status.Object
	kind string
}

func (g gauges) set(d *prometheus.Desc, v float64, labels ...string) {
	g.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{g.of.GetNamespace(), g.of.GetName()}, labels...)...)
}

func (g gauges) conditions() {
	for _, c := range *g.of.Conditions() {
		g.set(descCondition, 1, g.kind, c.Type, string(c.Status))
	}
}
