package p2p

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
)

// openPortAt answers at an address that a node is there.
func openPortAt(t *testing.T, addr string, id peer.ID) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(hello{Self: peer.AddrInfo{ID: id}})
	})}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// swallow accepts connections and never answers, like a firewall that drops the
// packets of one family.
func swallow(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// A name that stands for the addresses of two families leads to each node once, and
// also where one of the families leads nowhere.
func TestOpenPortsOfTwoFamilies(t *testing.T) {
	t.Parallel()
	first, second := test.RandPeerIDFatal(t), test.RandPeerIDFatal(t)
	port := openPortAt(t, "127.0.3.1:0", first)
	openPortAt(t, "127.0.3.2:"+port, first) // its other address
	openPortAt(t, "127.0.3.3:"+port, second)
	name := openPorts{host: "mirror.images.svc", port: port}

	infos, err := name.ask(t.Context(), []string{"127.0.3.1", "127.0.3.2", "127.0.3.3"})
	if err != nil || len(infos) != 2 || infos[0].ID != first || infos[1].ID != second {
		t.Errorf("two nodes at three addresses are %v, %v", infos, err)
	}

	var dead []string
	for _, addr := range []string{"127.0.3.10", "127.0.3.11", "127.0.3.12", "127.0.3.13", "127.0.3.14"} {
		swallow(t, addr+":"+port)
		dead = append(dead, addr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
	defer cancel()
	started := time.Now()
	infos, err = name.ask(ctx, append(dead, "127.0.3.3"))
	if err != nil || len(infos) != 1 || infos[0].ID != second {
		t.Errorf("one node behind five addresses that do not answer is %v, %v", infos, err)
	}
	// What is left of the time is for connecting to it.
	if took := time.Since(started); took > dialTimeout/2 {
		t.Errorf("it was found after %s of %s", took, dialTimeout)
	}

	if infos, err := name.ask(t.Context(), []string{"127.0.3.20"}); err == nil {
		t.Errorf("nobody is %v", infos)
	}
}
