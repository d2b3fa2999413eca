package steps

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// pullScript pulls an image as the kubelet does, by containerd's own resolver
// and its certs.d, and removes it with its content, so that the next pull
// transfers it again.
const pullScript = `ctr -n pulls images pull --hosts-dir /etc/containerd/certs.d docker.io/library/hello:1 >/tmp/pull.log 2>&1 ||
	{ tail -n 3 /tmp/pull.log; exit 1; }
ctr -n pulls images rm --sync docker.io/library/hello:1 >/dev/null`

// pullLimit is how long one pull may take: longer than a frontend has it wait.
const pullLimit = 2 * time.Minute

// pulls is a loop of pulls on each of some nodes.
type pulls struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex // guards what follows
	count    int
	failures []error
	slowest  time.Duration
}

// startPulls pulls without a pause on the nodes until end is called.
func (w *Env) startPulls(ctx context.Context, nodes ...string) *pulls {
	p := new(pulls)
	ctx, p.stop = context.WithCancel(ctx)
	for _, node := range nodes {
		p.done.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				// A pull under way at the end may end by itself.
				once, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullLimit)
				out, err := w.OnNode(once, node, "sh", "-c", pullScript)
				cancel()
				p.note(node, time.Since(start), out, err)
			}
		})
	}
	return p
}

func (p *pulls) note(node string, took time.Duration, out string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	p.slowest = max(p.slowest, took)
	if err != nil {
		p.failures = append(p.failures, fmt.Errorf("%s: %w: %s", node, err, out))
	}
}

// end stops the loops and tells how they went.
func (p *pulls) end(w *Env) error {
	p.stop()
	p.done.Wait()
	fmt.Fprintf(w.Out, "%d pulls, %d failed; the slowest took %.1f s.\n", p.count, len(p.failures), p.slowest.Seconds())
	if p.count == 0 {
		return errors.New("nothing was pulled")
	}
	return errors.Join(p.failures...)
}
