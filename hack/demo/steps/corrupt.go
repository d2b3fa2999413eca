package steps

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// corruptMetric counts the stored blobs that a node found corrupt.
const corruptMetric = "pyrsia_store_corrupt_blobs_total"

// healCorrupted damages a layer in the store of one worker's mirror and then
// asks that mirror for it.
func healCorrupted(ctx context.Context, w *Env) error {
	image := "big:1"
	if w.Upstream == DockerHub {
		image = w.small()
	}
	layer, err := w.largestLayer(ctx, image)
	if err != nil {
		return err
	}
	before, err := w.mirrorMetric(ctx, "w1", corruptMetric)
	if err != nil {
		return err
	}
	file := fmt.Sprintf("%s/store/blobs/sha256/%s", mirrorDir, layer.Digest.Hex)
	for _, argv := range [][]string{
		{"dd", "if=/dev/urandom", "of=" + file, "bs=16", "count=1", "seek=1000", "conv=notrunc", "status=none"},
		{"sha256sum", file},
	} {
		if err := w.Show(ctx, append([]string{clusterScript, "exec", "w1"}, argv...)...); err != nil {
			return err
		}
	}
	if err := w.fetchDamaged(ctx, image, layer); err != nil {
		return err
	}
	return w.Await(ctx, "the mirror's counter of corrupt blobs", 10*time.Second, func(ctx context.Context) (bool, string, error) {
		after, err := w.mirrorMetric(ctx, "w1", corruptMetric)
		if err != nil || after <= before {
			return false, fmt.Sprintf("%s is %v, was %v", corruptMetric, after, before), err
		}
		fmt.Fprintf(w.Out, "The mirror has noticed: %s is %v, was %v.\n", corruptMetric, after, before)
		return true, "", nil
	})
}

// fetchDamaged downloads the layer as a client on w1 would. The mirror may
// refuse it or end the answer early; what it must not do is give other bytes.
func (w *Env) fetchDamaged(ctx context.Context, image string, layer v1.Descriptor) error {
	url := libraryURL(image) + "/blobs/" + layer.Digest.String()
	const script = `curl -sS -o /tmp/answer -w "HTTP %{http_code}, %{size_download} bytes\n" "$0" && sha256sum /tmp/answer`
	argv := []string{"sh", "-c", script, url}
	fmt.Fprintf(w.Out, "$ %s exec w1 %s\n", clusterScript, shellQuote(argv))
	answer, err := w.OnNode(ctx, "w1", argv...)
	fmt.Fprint(w.Out, answer)
	switch {
	case err != nil || !strings.HasPrefix(answer, "HTTP 200"):
		fmt.Fprintln(w.Out, "The mirror has refused the damaged layer.")
	case strings.Contains(answer, layer.Digest.Hex):
		fmt.Fprintln(w.Out, "The mirror has fetched the damaged part from another peer: the bytes are right.")
	default:
		return fmt.Errorf("the mirror served corrupt bytes of %s", layer.Digest)
	}
	return nil
}

// largestLayer reads this machine's platform of the image from w1's mirror.
func (w *Env) largestLayer(ctx context.Context, image string) (v1.Descriptor, error) {
	a, err := w.artifact(ctx, image)
	if err != nil {
		return v1.Descriptor{}, err
	}
	entry, err := ledger.ParseEntry([]byte(a.Status.Block.Entry))
	if err != nil {
		return v1.Descriptor{}, err
	}
	for _, p := range entry.Platforms {
		if !strings.HasPrefix(p.Platform, "linux/"+runtime.GOARCH) {
			continue
		}
		raw, err := w.OnNode(ctx, "w1", "curl", "-sf", libraryURL(image)+"/manifests/"+p.Digest.String())
		if err != nil {
			return v1.Descriptor{}, err
		}
		var m v1.Manifest
		if err := json.Unmarshal([]byte(raw), &m); err != nil {
			return v1.Descriptor{}, fmt.Errorf("manifest of %s: %w", image, err)
		}
		var largest v1.Descriptor
		for _, l := range m.Layers {
			if l.Size > largest.Size {
				largest = l
			}
		}
		return largest, nil
	}
	return v1.Descriptor{}, fmt.Errorf("%s has no image for linux/%s", image, runtime.GOARCH)
}

// libraryURL is where a worker reaches an official image on its own mirror.
func libraryURL(image string) string {
	repository, _, _ := strings.Cut(image, ":")
	return mirrorURL + "/v2/library/" + repository
}

// mirrorMetric reads a counter of the mirror on a node; 0 if it is not there.
func (w *Env) mirrorMetric(ctx context.Context, node, metric string) (float64, error) {
	pod, err := w.mirrorPod(ctx, node)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(pod.Status.PodIP, "8080")+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		name, _, _ := strings.Cut(series, "{")
		if name != metric {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", metric, err)
		}
		sum += v
	}
	return sum, nil
}

func (w *Env) mirrorPod(ctx context.Context, node string) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := w.Client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for i, p := range pods.Items {
		if p.Spec.NodeName == node && p.Labels["app.kubernetes.io/component"] == "mirror" {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no mirror runs on %s", node)
}
