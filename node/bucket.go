package node

import (
	"context"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/internal/bucket"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
)

// openStore opens the node's content: on disk, and on a publisher that was
// given one in a bucket.
func (n *Node) openStore(ctx context.Context) (err error) {
	c := store.Config{Max: n.config.CacheSize, Corrupt: n.foundCorrupt, Log: n.log}
	if n.config.Bucket != "" {
		c.Bucket, err = bucket.Open(ctx, bucket.Config{URL: n.config.Bucket, SecretDir: n.config.BucketSecrets})
		if err != nil {
			return err
		}
		n.registerBucketMetrics(c.Bucket)
	} else {
		c.Pinned = n.config.Role == control.Publisher
	}
	n.store, err = store.Open(filepath.Join(n.config.DataDir, "store"), c)
	return err
}

func (n *Node) registerBucketMetrics(b *bucket.Bucket) {
	gauge := func(name, help string, f func() float64) {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("pyrsia_bucket_blobs", "Blobs in the bucket.", func() float64 { blobs, _ := b.Usage(); return float64(blobs) })
	gauge("pyrsia_bucket_size_bytes", "Bytes in the bucket.", func() float64 { _, bytes := b.Usage(); return float64(bytes) })
	gauge("pyrsia_bucket_waiting_blobs", "Blobs that are on disk alone and still to be uploaded.", func() float64 { return float64(len(n.store.Unsettled())) })
}

// announceBucket announces the artifacts whose piece lists are in the bucket
// and may not be on disk.
func (n *Node) announceBucket(ctx context.Context) {
	for height := range n.ledger.Size() {
		e, err := n.ledger.Entry(ctx, height)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.log.Error("announcing what is in the bucket", "block", height, "error", err)
			return
		}
		if e.Artifact != nil && n.store.Has(e.Artifact.Pieces) {
			n.host.Announce(e.Artifact.Pieces)
		}
	}
}
