package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
)

// verifierDir is a bin_dir of containerd's image verifier plugin: its own is
// outside of a node's disk here.
const verifierDir = "/var/lib/image-verifier"

// verifyImages has the newest worker's containerd ask the image verifier before each
// pull, also from a registry that is not mirrored, and then keeps it from that by a
// setting that seems to be about something else.
func verifyImages(ctx context.Context, w *Env) error {
	v, err := w.installVerifier(ctx, w.workers[len(w.workers)-1])
	if err != nil {
		return err
	}
	if err := v.status(ctx, false, "no bin_dir is set"); err != nil {
		return err
	}
	set := fmt.Sprintf(`cp $0 /run/config.toml.before && printf '%%s\n' '[plugins."io.containerd.image-verifier.v1.bindir"]' '  bin_dir = "%s"' >>$0`, verifierDir)
	if err := w.restartContainerd(ctx, v.node, set); err != nil {
		return err
	}
	if err := v.isAsked(ctx); err != nil {
		return err
	}
	if err := w.restartContainerd(ctx, v.node, `sed -i '/^\[plugins."io.containerd.cri.v1.images"\]$/a max_concurrent_downloads = 4' $0`); err != nil {
		return err
	}
	if err := v.isNotAsked(ctx); err != nil {
		return err
	}
	if err := w.restartContainerd(ctx, v.node, "cp /run/config.toml.before $0"); err != nil {
		return err
	}
	_, err = w.OnNode(ctx, v.node, v.program, "image-verifier", "uninstall", "--bin-dir", verifierDir)
	return err
}

// imageVerifier is that of a machine.
type imageVerifier struct {
	w             *Env
	node, program string
}

// installVerifier sets it up for Docker Hub's images and those of the demo's registry.
func (w *Env) installVerifier(ctx context.Context, node string) (*imageVerifier, error) {
	program, err := w.program(ctx, node)
	if err != nil {
		return nil, err
	}
	var publisher v1alpha1.PyrsiaNode
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "publisher"}, &publisher); err != nil {
		return nil, err
	}
	if publisher.Status.Ledger == nil {
		return nil, errors.New("the publisher has no ledger in its status")
	}
	mirror, err := w.mirrorPod(ctx, node)
	if err != nil {
		return nil, err
	}
	return &imageVerifier{w, node, program}, w.Show(ctx, clusterScript, "exec", node, program, "image-verifier", "install", "--bin-dir", verifierDir,
		"--node", "http://"+mirror.Status.PodIP+":8080", "--ledger-key", publisher.Status.Ledger.Key, "--registry", "docker.io", "--registry", w.RegistryAddr())
}

// status checks what 'pyrsia image-verifier status' says, and whether it succeeds.
func (v *imageVerifier) status(ctx context.Context, asked bool, says string) error {
	said, err := v.w.OnNode(ctx, v.node, "sh", "-c", `"$0" image-verifier status --bin-dir "$1" 2>&1 && echo exit status 0 || echo exit status $?`, v.program, verifierDir)
	if err != nil {
		return err
	}
	fmt.Fprintf(v.w.Out, "%s$ pyrsia image-verifier status\n%s", v.node, said)
	if !strings.Contains(said, says) || asked != strings.Contains(said, "exit status 0") {
		return fmt.Errorf("want %q in what it says, and success: %t", says, asked)
	}
	return nil
}

// isAsked checks that an image on the ledger is pulled, and that the kubelet's events
// tell why one is not that its registry would give.
func (v *imageVerifier) isAsked(ctx context.Context) error {
	w := v.w
	if err := v.status(ctx, true, "asks pyrsia before each pull of CRI"); err != nil {
		return err
	}
	if err := w.startPod(ctx, "vouched", "hello:1", v.node); err != nil {
		return err
	}
	if _, err := w.awaitEnd(ctx, "vouched"); err != nil {
		return err
	}
	if err := w.startPod(ctx, "refused", w.RegistryAddr()+"/library/moving:1", v.node); err != nil {
		return err
	}
	message, err := w.awaitEvent(ctx, "refused", "blocked pull", "the ledger does not record that "+w.RegistryAddr()+"/library/moving:1 is sha256:")
	if err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "The kubelet says: %s\n", message)
	// The canary is let through although it is not on the ledger.
	if err := w.awaitProof(ctx, pulledAgain, metav1.ConditionTrue, ""); err != nil {
		return err
	}
	return w.Show(ctx, "kubectl", "delete", "pod", "vouched", "refused", "--now")
}

// isNotAsked checks that the same image is pulled, and that status alone tells why.
func (v *imageVerifier) isNotAsked(ctx context.Context) error {
	w := v.w
	if err := w.startPod(ctx, "unverified", w.RegistryAddr()+"/library/moving:1", v.node); err != nil {
		return err
	}
	said, err := w.awaitEnd(ctx, "unverified")
	if err != nil {
		return err
	}
	if !strings.Contains(said, "content that nobody published") {
		return fmt.Errorf("the pod says %q", said)
	}
	if err := v.status(ctx, false, "max_concurrent_downloads"); err != nil {
		return err
	}
	return w.Show(ctx, "kubectl", "delete", "pod", "unverified", "--now")
}
