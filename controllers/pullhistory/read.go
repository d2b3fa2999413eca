package pullhistory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/nodeclient"
	"github.com/pyrsia/pyrsia-operator/controllers/internal/status"
	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

const (
	// maxPages bounds what is read of one pod's receipts in one turn; the rest
	// is read in the next one.
	maxPages = 5
	// maxHeard bounds the pulls for which something is still to be done: those
	// longest ago are forgotten first.
	maxHeard = 20_000
	// podBurst and podRefill bound the Artifacts that are created because of
	// one pod's receipts, so that a lying pod cannot keep the API server busy:
	// a burst, and then one per podRefill.
	podBurst  = 250
	podRefill = 5 * time.Second
)

// read asks the pods for what is new of their receipts. A pod that does not
// answer is asked again the next time.
func (r *Reconciler) read(ctx context.Context, v *nodeclient.Visit, b *book, pods []corev1.Pod) {
	maps.DeleteFunc(b.pods, func(uid types.UID, _ *podReceipts) bool {
		return !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == uid })
	})
	var group errgroup.Group
	group.SetLimit(nodeclient.PollsAtOnce)
	for _, pod := range pods {
		p := b.pods[pod.UID]
		if p == nil {
			p = &podReceipts{budget: rate.NewLimiter(rate.Every(podRefill), podBurst)}
			b.pods[pod.UID] = p
		}
		group.Go(func() error {
			if err := r.readPod(ctx, v, b, p, pod); err != nil {
				ctrl.LoggerFrom(ctx).V(1).Info("reading the pull receipts", "pod", pod.Name, "error", err.Error())
			}
			return nil
		})
	}
	_ = group.Wait() // no goroutine fails
	b.bound()
}

func (r *Reconciler) readPod(ctx context.Context, v *nodeclient.Visit, b *book, p *podReceipts, pod corev1.Pod) error {
	for range maxPages {
		var page *control.Receipts
		err := v.Ask(ctx, pod, func(ctx context.Context, c *control.Client) (err error) {
			page, err = c.Receipts(ctx, p.since)
			return err
		})
		if err != nil {
			return err
		}
		if err := checkReceipts(p.since, page.Receipts); err != nil {
			r.refuse(v.Node, p, &pod, err)
			return nil
		}
		b.hear(pod.UID, page.Receipts, r.Now())
		if len(page.Receipts) > 0 {
			p.since = page.Receipts[len(page.Receipts)-1].Sequence
		}
		if len(page.Receipts) < control.MaxReceipts {
			return nil
		}
	}
	return nil
}

// checkReceipts refuses what no honest node says.
func checkReceipts(since int64, receipts []control.Receipt) error {
	if len(receipts) > control.MaxReceipts {
		return fmt.Errorf("%d receipts in one answer: at most %d", len(receipts), control.MaxReceipts)
	}
	for _, r := range receipts {
		if r.Sequence <= since {
			return errors.New("receipts that are out of order")
		}
		since = r.Sequence
		if image, err := ledger.ParseImage(r.Image); err != nil || image.String() != r.Image {
			return fmt.Errorf("a receipt of %.80q, which is no full name of an image", r.Image)
		}
		if err := ledger.CheckDigest(digest.Digest(r.Digest)); err != nil {
			return fmt.Errorf("a receipt: %w", err)
		}
	}
	return nil
}

// hear notes pulls. A clock that is ahead makes none that are still to come.
func (b *book) hear(pod types.UID, receipts []control.Receipt, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range receipts {
		last := r.LastPulled
		if last.After(now) {
			last = now
		}
		key := pullKey{r.Image, r.Digest}
		if old, ok := b.heard[key]; !ok || last.After(old.last) {
			b.heard[key] = heard{last: last, pod: pod}
		}
	}
}

func (b *book) bound() {
	if len(b.heard) <= maxHeard {
		return
	}
	keys := slices.SortedFunc(maps.Keys(b.heard), func(x, y pullKey) int { return b.heard[y].last.Compare(b.heard[x].last) })
	for _, k := range keys[maxHeard:] {
		delete(b.heard, k)
	}
}

// refuse tells, once for each pod, that it said what its ledger does not prove.
func (r *Reconciler) refuse(n *v1alpha1.PyrsiaNode, p *podReceipts, pod *corev1.Pod, err error) {
	receiptsRefused.Inc()
	if p.refused {
		return
	}
	p.refused = true
	r.recorder.Eventf(n, pod, corev1.EventTypeWarning, v1alpha1.ReasonReceiptRefused, "ReadReceipts",
		"the pod %s tells of a pull that its ledger does not prove, which no honest node does: %s", pod.Name, status.Bounded(err.Error(), 512))
}

// newestFirst sorts pulls by their time.
func newestFirst(a, b pull) int {
	return cmp.Or(b.last.Compare(a.last), cmp.Compare(a.key.image, b.key.image), cmp.Compare(a.key.digest, b.key.digest))
}

// receiptsRefused counts what pods said of pulls and their ledger does not prove.
var receiptsRefused = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "pyrsia_operator_receipts_refused_total",
	Help: "Pull receipts that were refused because the node's ledger does not prove them.",
})

func init() { metrics.Registry.MustRegister(receiptsRefused) }
