package controllers

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// receiptsRefused counts what pods said of pulls and their ledger does not prove.
var receiptsRefused = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "pyrsia_operator_receipts_refused_total",
	Help: "Pull receipts that were refused because the node's ledger does not prove them.",
})

func init() { metrics.Registry.MustRegister(receiptsRefused) }
