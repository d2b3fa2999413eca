package mirror

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests  *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	answers   *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	firstByte *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &metrics{
		requests: counter("pyrsia_mirror_requests_total", "Requests of container clients, by kind and status code.", "kind", "code"),
		refusals: counter("pyrsia_mirror_refusals_total", "Requests that were refused, by cause.", "cause"),
		answers:  counter("pyrsia_mirror_answers_total", "Manifests and blobs handed out, by where they came from: memory and store are hits.", "source"),
		bytes:    counter("pyrsia_mirror_sent_bytes_total", "Bytes of manifests and blobs handed out, by where they came from.", "source"),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pyrsia_mirror_first_byte_seconds", Help: "Time from a request to the first byte of the answer, by kind.",
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 20},
		}, []string{"kind"}),
	}
	reg.MustRegister(m.firstByte)
	return m
}

// sent counts what was handed out.
func (m *metrics) sent(source string, bytes int64) {
	m.answers.WithLabelValues(source).Inc()
	m.bytes.WithLabelValues(source).Add(float64(bytes))
}
