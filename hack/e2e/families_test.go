package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pyrsia/pyrsia-operator/api/v1alpha1"
	"github.com/pyrsia/pyrsia-operator/hack/demo/steps"
	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// TestFamilies runs the demo on a cluster without IPv4, and on one whose pods and
// Services have addresses of both families, and has nodes join by all addresses that
// the publisher's status tells. A cluster stays if it fails.
func TestFamilies(t *testing.T) {
	if os.Getenv("PYRSIA_FAMILIES") == "" {
		t.Skip("needs clusters: run 'make test-families'")
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Fatal("the cluster is made of Linux namespaces, which needs root on Linux")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"ID": "v6", "NET": "10.94.0", "POD": "10.241"} { // beside another one
		t.Setenv(k, v)
	}
	for _, tt := range []struct {
		name, families string
		want           []corev1.IPFamily
	}{
		{"ipv6", "ipv6", []corev1.IPFamily{corev1.IPv6Protocol}},
		{"both", "ipv4,ipv6", []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("FAMILIES", tt.families)
			w := &steps.Env{Out: os.Stdout, Root: root}
			t.Cleanup(func() {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				if !t.Failed() {
					if err := w.Quietly(context.Background(), "hack/cluster/cluster", "down"); err != nil {
						t.Error(err)
					}
				}
			})
			for _, s := range steps.All("") {
				if !t.Run(s.Name, func(t *testing.T) {
					if err := s.Do(t.Context(), w); err != nil {
						t.Fatal(err)
					}
				}) {
					t.FailNow()
				}
			}
			families(t, w, tt.want)
			joinsByName(t, w)
			joinsFromOutside(t, w, tt.want)
		})
	}
}

// families checks that nodes, pods and Services have addresses of these families alone.
func families(t *testing.T, w *steps.Env, want []corev1.IPFamily) {
	t.Helper()
	pods, services := new(corev1.PodList), new(corev1.ServiceList)
	for _, list := range []client.ObjectList{pods, services} {
		if err := w.Client.List(t.Context(), list, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pods.Items {
		var got []corev1.IPFamily
		for _, ip := range p.Status.PodIPs {
			got = append(got, familyOf(t, ip.IP))
		}
		if p.Status.Phase == corev1.PodRunning && !slices.Equal(got, want) {
			t.Errorf("pod %s has the addresses %v, want %v", p.Name, p.Status.PodIPs, want)
		}
	}
	for _, s := range services.Items {
		if s.Name != "kubernetes" && !slices.Equal(s.Spec.IPFamilies, want) {
			t.Errorf("Service %s has the families %v, want %v", s.Name, s.Spec.IPFamilies, want)
		}
	}
}

func familyOf(t *testing.T, ip string) corev1.IPFamily {
	t.Helper()
	a, err := netip.ParseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// joinsByName runs mirrors that know of the publisher what its status.bootstrap says.
func joinsByName(t *testing.T, w *steps.Env) {
	t.Helper()
	publisher := publisherOf(t, w)
	byName := &v1alpha1.PyrsiaNode{
		ObjectMeta: metav1.ObjectMeta{Name: "by-name", Namespace: "default"},
		Spec: v1alpha1.PyrsiaNodeSpec{Role: v1alpha1.RoleMirror,
			Network: &v1alpha1.Network{LedgerKey: publisher.Status.Ledger.Key, Bootstrap: publisher.Status.Bootstrap},
			Mirror:  &v1alpha1.Mirror{Port: 5003, Containerd: v1alpha1.ContainerdUnmanaged}},
	}
	if err := w.Client.Create(t.Context(), byName); err != nil {
		t.Fatal(err)
	}
	err := w.Await(t.Context(), "mirrors that join by "+publisher.Status.Bootstrap[0], 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		if err := w.Client.Get(ctx, client.ObjectKeyFromObject(byName), byName); err != nil {
			return false, "", err
		}
		ready := meta.FindStatusCondition(byName.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil {
			return false, "no condition", nil
		}
		return ready.Status == metav1.ConditionTrue && byName.Status.Peers > 0, ready.Message, nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := w.Client.Delete(t.Context(), byName); err != nil {
		t.Error(err)
	}
}

// joinsFromOutside exposes the publisher, and runs a node on this machine by each of
// its addresses alone.
func joinsFromOutside(t *testing.T, w *steps.Env, want []corev1.IPFamily) {
	t.Helper()
	for _, exposure := range []v1alpha1.ExposureType{v1alpha1.ExposureNodePort, v1alpha1.ExposureHostPort} {
		publisher := publisherOf(t, w)
		before := client.MergeFrom(publisher.DeepCopy())
		publisher.Spec.Network = &v1alpha1.Network{Exposure: &v1alpha1.Exposure{Type: exposure}}
		if err := w.Client.Patch(t.Context(), publisher, before); err != nil {
			t.Fatal(err)
		}
		var addresses []string
		err := w.Await(t.Context(), string(exposure), 2*time.Minute, func(ctx context.Context) (bool, string, error) {
			publisher := publisherOf(t, w)
			addresses = publisher.Status.Addresses
			ready := meta.FindStatusCondition(publisher.Status.Conditions, v1alpha1.ConditionReady)
			done := len(addresses) == len(want) && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == publisher.Generation &&
				(exposure == v1alpha1.ExposureNodePort) == !strings.Contains(addresses[0], "/tcp/4001/")
			return done, fmt.Sprintf("the addresses are %v, and %s", addresses, ready.Message), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, address := range addresses {
			kind := map[corev1.IPFamily]string{corev1.IPv4Protocol: "/ip4/", corev1.IPv6Protocol: "/ip6/"}[want[i]]
			if !strings.HasPrefix(address, kind) {
				t.Errorf("address %d of %s is %s, want one of %s", i, exposure, address, want[i])
			}
			if err := joinBy(t, w, address, publisher.Status.Ledger.Key); err != nil {
				t.Errorf("%s: %s: %v", exposure, address, err)
			}
		}
	}
}

// joinBy runs a node on this machine until it has the ledger.
func joinBy(t *testing.T, w *steps.Env, address, key string) error {
	t.Helper()
	open, err := loopback.FreeAddr()
	if err != nil {
		return err
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(t.Context(), os.Getenv("PYRSIA_BINARY"), "node", "--role", "Mirror", "--data", filepath.Join(dir, "data"),
		"--ledger-key", key, "--bootstrap", address, "--open-addr", open, "--p2p-port", "0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	err = w.Await(t.Context(), "a node that joins by "+address, time.Minute, func(ctx context.Context) (bool, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+open+"/api/v1/status", nil)
		if err != nil {
			return false, "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, "", err
		}
		defer resp.Body.Close()
		var status struct{ Blocks int64 }
		err = json.NewDecoder(resp.Body).Decode(&status)
		return status.Blocks > 0, fmt.Sprintf("it has %d blocks", status.Blocks), err
	})
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}

func publisherOf(t *testing.T, w *steps.Env) *v1alpha1.PyrsiaNode {
	t.Helper()
	publisher := new(v1alpha1.PyrsiaNode)
	if err := w.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "publisher"}, publisher); err != nil {
		t.Fatal(err)
	}
	return publisher
}
