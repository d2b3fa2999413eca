package mirror

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

// containerdAgent begins what containerd says of itself. Other clients name
// registries too, and prove nothing of containerd.
const containerdAgent = "containerd/"

// maxAsked bounds the registries of which it is known: any client may make up more.
const maxAsked = 64

// askedBook takes note of it. It is a prometheus.Collector.
type askedBook struct {
	since time.Time

	mu sync.Mutex // guards at
	at map[string]time.Time
}

func newAskedBook(reg prometheus.Registerer) *askedBook {
	b := &askedBook{since: time.Now(), at: map[string]time.Time{}}
	reg.MustRegister(b)
	return b
}

// note takes note of a request, if it is one of containerd's that names a registry.
func (b *askedBook) note(r *http.Request, req request) {
	registry, _, ok := strings.Cut(req.repository, "/")
	if !ok || !namesRegistry(r) || !strings.HasPrefix(r.UserAgent(), containerdAgent) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.at[registry]; known || len(b.at) < maxAsked {
		b.at[registry] = time.Now()
	}
}

func (b *askedBook) asked() client.Asked {
	b.mu.Lock()
	defer b.mu.Unlock()
	return client.Asked{Since: b.since, Registries: maps.Clone(b.at)}
}

func (b *askedBook) serve(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(b.asked()) // the client is gone
}

var askedMetric = prometheus.NewDesc("pyrsia_mirror_asked_timestamp_seconds",
	"When containerd asked this mirror last, by the registry that it meant.", []string{"registry"}, nil)

// Describe implements prometheus.Collector.
func (b *askedBook) Describe(ch chan<- *prometheus.Desc) { ch <- askedMetric }

// Collect implements prometheus.Collector.
func (b *askedBook) Collect(ch chan<- prometheus.Metric) {
	for registry, at := range b.asked().Registries {
		ch <- prometheus.MustNewConstMetric(askedMetric, prometheus.GaugeValue, float64(at.UnixMilli())/1000, registry)
	}
}
