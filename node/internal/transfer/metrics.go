package transfer

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	bytes     *prometheus.CounterVec // verified, by source: store, peers
	twice     prometheus.Counter     // bytes
	errors    *prometheus.CounterVec // by cause
	firstByte prometheus.Histogram   // seconds
}

func newMetrics(reg prometheus.Registerer, f *Fetcher) *metrics {
	m := &metrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_transfer_bytes_total", Help: "Verified bytes, by where they came from.",
		}, []string{"source"}),
		twice: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrsia_transfer_duplicate_bytes_total", Help: "Verified bytes that another peer had delivered first.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrsia_transfer_piece_errors_total", Help: "Pieces and small blobs that a peer did not deliver, by cause.",
		}, []string{"cause"}),
		firstByte: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pyrsia_transfer_first_byte_seconds", Help: "From a request for a blob that the store lacks to its first verified bytes.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20},
		}),
	}
	downloads := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrsia_transfer_downloads", Help: "Blobs of more than one piece that are on their way.",
	}, func() float64 { n, _ := f.Queue(); return float64(n) })
	queue := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrsia_transfer_queued_pieces", Help: "Pieces of them that are still to come.",
	}, func() float64 { _, n := f.Queue(); return float64(n) })
	reg.MustRegister(m.bytes, m.twice, m.errors, m.firstByte, downloads, queue)
	for _, cause := range []string{causeWrong, causeAltered, causeShort, causeSlow, causeLacks, causeFailed} {
		m.errors.WithLabelValues(cause)
	}
	return m
}

// Queue is the number of blobs on their way, and of their pieces to come.
func (f *Fetcher) Queue() (downloads, pieces int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.active {
		pieces += d.missing()
	}
	return len(f.active), pieces
}
