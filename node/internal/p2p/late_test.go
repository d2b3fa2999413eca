package p2p

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// A bootstrap node is asked as soon as it is connected and recognised as one; waiting
// for one that never comes ends after the given time.
func TestLateClientWaitsForTheConnection(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	publisher := member(t, anyPort(t), key)
	addr, id := publisher.host.Addrs()[0], publisher.ID()
	if err := publisher.Close(); err != nil {
		t.Fatal(err)
	}
	node := member(t, anyPort(t), filepath.Join(t.TempDir(), "key"), addr.String()+"/p2p/"+id.String())
	ask := func(ctx context.Context) error {
		client, base := node.LateClient(id)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/checkpoint", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := ask(short); err == nil || short.Err() == nil {
		t.Errorf("who is not there has answered: %v", err)
	}
	if got := node.Bootstrapped(); len(got) != 0 {
		t.Errorf("reached: %v", got)
	}
	answered := make(chan error, 1)
	go func() { answered <- ask(t.Context()) }()
	member(t, addr, key)
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it is not asked")
	}
	eventually(t, "it is not known as a bootstrap node", func() bool {
		got := node.Bootstrapped()
		return len(got) == 1 && got[0] == id
	})
}
