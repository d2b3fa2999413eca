package publish

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/upstream"
)

// metrics are what a publisher counts.
type metrics struct {
	requests *prometheus.CounterVec
	images   *prometheus.CounterVec
	bytes    prometheus.Counter
}

func newMetrics(p *Publisher) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_upstream_requests_total", Help: "Requests to upstream registries, by method and status code.",
		}, []string{"method", "code"}),
		images: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_publish_images_total", Help: "Publications that ended, by result.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrsia_publish_fetched_bytes_total", Help: "Bytes of published images.",
		}),
	}
	p.Metrics.MustRegister(m.requests, m.images, m.bytes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrsia_publish_jobs", Help: "Publications that wait or run.",
	}, p.jobCount), &limitCollector{p})
	return m
}

func (p *Publisher) jobCount() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return float64(len(p.jobs))
}

func (m *metrics) observe(method string, code int) {
	m.requests.WithLabelValues(method, strconv.Itoa(code)).Inc()
}

func (m *metrics) published(bytes int64) {
	m.images.WithLabelValues("published").Inc()
	m.bytes.Add(float64(bytes))
}

// failed counts a failure by its kind.
func (m *metrics) failed(err error) {
	result := "internal_error"
	if _, ok := errors.AsType[*control.Error](err); ok {
		result = "refused" // for what the upstream says of the tag
	}
	if u, ok := errors.AsType[*upstream.Error](err); ok {
		result = map[upstream.Kind]string{
			upstream.Unavailable: "unavailable", upstream.NotFound: "not_found", upstream.Unauthorized: "unauthorized",
			upstream.RateLimited: "rate_limited", upstream.Invalid: "invalid", upstream.NoSpace: "no_space",
		}[u.Kind]
	}
	m.images.WithLabelValues(result).Inc()
}

// limitCollector tells of the upstreams' rate limits, once they have.
type limitCollector struct{ p *Publisher }

var (
	descLimit     = prometheus.NewDesc("pyrsia_upstream_pulls_limit", "Pulls that an upstream allows in a window.", []string{"registry"}, nil)
	descRemaining = prometheus.NewDesc("pyrsia_upstream_pulls_remaining", "Pulls that are left in the window.", []string{"registry"}, nil)
)

// Describe implements prometheus.Collector.
func (c *limitCollector) Describe(ch chan<- *prometheus.Desc) { ch <- descLimit; ch <- descRemaining }

// Collect implements prometheus.Collector.
func (c *limitCollector) Collect(ch chan<- prometheus.Metric) {
	for name, r := range c.p.upstreams {
		if l := r.Limits(); l.Limit > 0 {
			ch <- prometheus.MustNewConstMetric(descLimit, prometheus.GaugeValue, float64(l.Limit), name)
			ch <- prometheus.MustNewConstMetric(descRemaining, prometheus.GaugeValue, float64(l.Remaining), name)
		}
	}
}
