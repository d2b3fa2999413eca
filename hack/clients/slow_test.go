package clients

import (
	"testing"

	"github.com/pyrsia/pyrsia-operator/hack/internal/image"
)

// Over a slow link the first piece of a layer takes long: 20 s at 200 KiB/s, and
// longer if several layers come in parallel. Clients still get the image, and
// from nowhere else.
func TestSlowLinks(t *testing.T) {
	b := startPublisher(t)
	var err error
	if b.mirror, err = b.rig.StartMirror(t.Context(), "mirror", "--download-limit", "200Ki"); err != nil {
		t.Fatal(err)
	}
	if b.other, err = b.rig.StartMirror(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	b.wire = startWire(t, b.mirror.Mirror)
	for _, c := range []client{
		b.env.containerd(t, "containerd 1.6", b.env.programs, b.rig.Pyrsia, b.wire.addr, "Strict", ""),
		b.env.containerd(t, "containerd 2.4", b.env.newer, b.rig.Pyrsia, b.wire.addr, "Strict", ""),
		b.env.dockerd(t, b.rig.Pyrsia, b.wire.addr),
		b.env.skopeo(t, b.rig.Pyrsia, b.wire.addr, "Strict"),
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			name := "slow-" + b.slug(c) + ":1"
			b.publish(name, image.OCI, 1, 6<<20)
			if got, err := b.pull(c, name, 1); got != pulled {
				t.Errorf("%s, %v", got, err)
			}
			if n := b.env.hub.requests.Load(); n > 0 {
				t.Errorf("%d requests went to Docker Hub", n)
			}
		})
	}
}
