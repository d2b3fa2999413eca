package socketproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// folder is a short path, because the path of a Unix socket is bounded.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// freeAddr is a loopback address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := loopback.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func config(t *testing.T, dir string) Config {
	return Config{
		Addr: freeAddr(t), Dir: dir, Wait: 10 * time.Second, Succession: 100 * time.Millisecond, Drain: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// start runs a proxy until the returned function is called, which returns
// when it has ended.
func start(t *testing.T, c Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// mirror serves HTTP at the socket, as a node does.
func mirror(t *testing.T, dir string, handler http.Handler) (stop func()) {
	t.Helper()
	socket := filepath.Join(dir, MirrorSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket + ".new"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Rename(socket+".new", socket); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	stop = sync.OnceFunc(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func get(ctx context.Context, c *http.Client, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// awaitPort waits until a process listens.
func awaitPort(t *testing.T, addr string) {
	t.Helper()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Clients that ask all the time see neither a mirror that is replaced nor a
// proxy that is: no request fails, on new connections and on kept ones.
func TestNoRequestFails(t *testing.T) {
	dir := folder(t)
	c := config(t, dir)
	c.Succession = 2 * time.Second
	stopFrontend := start(t, c)
	awaitPort(t, c.Addr)
	stopMirror := mirror(t, dir, say("bytes"))

	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	var clients, replaced sync.WaitGroup
	for i := range 4 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		clients.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				status, body, err := get(context.WithoutCancel(ctx), client, "http://"+c.Addr+"/v2/")
				if err != nil || status != http.StatusOK || body != "bytes" {
					t.Errorf("after %d requests: %d %q, %v", asked.Load(), status, body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	more := func(n int64) {
		for want := asked.Load() + n; asked.Load() < want && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	for range 5 {
		more(50)
		stopMirror()
		time.Sleep(100 * time.Millisecond) // its successor boots
		stopMirror = mirror(t, dir, say("bytes"))
		more(50)
		before := stopFrontend
		stopFrontend = start(t, c)
		replaced.Go(before)
	}
	more(50)
	cancel()
	clients.Wait()
	replaced.Wait()
	t.Logf("%d requests", asked.Load())
}

// A download that is under way when the proxy is replaced goes on.
func TestDownloadsGoOn(t *testing.T) {
	dir := folder(t)
	c := config(t, dir)
	stop := start(t, c)
	awaitPort(t, c.Addr)
	const chunk, chunks = 1 << 20, 8
	next := make(chan struct{})
	mirror(t, dir, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(chunk*chunks))
		for range chunks {
			_, _ = w.Write(make([]byte, chunk))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}))
	type result struct {
		size int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		_, body, err := get(t.Context(), http.DefaultClient, "http://"+c.Addr+"/blob")
		done <- result{len(body), err}
	}()
	next <- struct{}{}
	start(t, c)
	ended := make(chan struct{})
	go func() { stop(); close(ended) }()
	for range chunks - 1 {
		next <- struct{}{}
	}
	if r := <-done; r.err != nil || r.size != chunk*chunks {
		t.Errorf("%d bytes, %v", r.size, r.err)
	}
	http.DefaultClient.CloseIdleConnections()
	<-ended
}

// Without a mirror for too long, the answer says what is wrong. A HEAD has no
// body.
func TestMirrorThatDoesNotRun(t *testing.T) {
	c := config(t, folder(t))
	c.Wait = 100 * time.Millisecond
	start(t, c)
	awaitPort(t, c.Addr)
	url := "http://" + c.Addr + "/v2/library/alpine/manifests/3.20"
	status, body, err := get(t.Context(), http.DefaultClient, url)
	if err != nil || status != http.StatusBadGateway || !strings.Contains(body, `"UNAVAILABLE"`) || !strings.Contains(body, "kubectl") {
		t.Errorf("%d %s, %v", status, body, err)
	}
	conn, err := net.Dial("tcp", c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err1 := io.WriteString(conn, "HEAD /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n")
	head, err2 := io.ReadAll(conn)
	if err := errors.Join(err1, err2); err != nil || !strings.HasPrefix(string(head), "HTTP/1.1 502 ") || !strings.HasSuffix(string(head), "\r\n\r\n") {
		t.Errorf("HEAD: %q, %v", head, err)
	}
}

// The mirror is waited for once, and not again by each request that comes after:
// a client that pulls one image after the other has others to pull too.
func TestMirrorThatStaysAway(t *testing.T) {
	var a away
	now := time.Unix(0, 0)
	for _, step := range []struct {
		what      string
		at, until time.Duration
	}{
		{"the first request", 0, 25 * time.Second},
		{"one that comes meanwhile", 10 * time.Second, 25 * time.Second},
		{"one at the end", 24500 * time.Millisecond, 24500*time.Millisecond + moment},
		{"one that comes after", time.Minute, time.Minute + moment},
		{"one after a long time", time.Hour, time.Hour + 25*time.Second},
	} {
		if got := a.deadline(now.Add(step.at), 25*time.Second).Sub(now); got != step.until {
			t.Errorf("%s waits until %s, want %s", step.what, got, step.until)
		}
	}
	a.over()
	if got := a.deadline(now.Add(61*time.Minute), 25*time.Second).Sub(now); got != 61*time.Minute+25*time.Second {
		t.Errorf("after the mirror was there it is waited for until %s", got)
	}

	c := config(t, folder(t))
	c.Wait = 3 * time.Second
	start(t, c)
	awaitPort(t, c.Addr)
	url := "http://" + c.Addr + "/v2/"
	if status, _, err := get(t.Context(), http.DefaultClient, url); err != nil || status != http.StatusBadGateway {
		t.Fatalf("%d, %v", status, err)
	}
	mirror(t, c.Dir, say("bytes"))
	if status, body, err := get(t.Context(), http.DefaultClient, url); err != nil || body != "bytes" {
		t.Errorf("the mirror is back: %d %q, %v", status, body, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A client that goes has its request ended at the mirror.
func TestClientThatGoes(t *testing.T) {
	dir := folder(t)
	c := config(t, dir)
	start(t, c)
	awaitPort(t, c.Addr)
	asked, ended := make(chan struct{}), make(chan struct{})
	mirror(t, dir, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(ended)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, _, err := get(ctx, http.DefaultClient, "http://"+c.Addr+"/blob")
		failed <- err
	}()
	<-asked
	cancel()
	<-ended
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A successor that dies before it serves does not count.
func TestSuccessorThatDies(t *testing.T) {
	dir := folder(t)
	c := config(t, dir)
	start(t, c)
	awaitPort(t, c.Addr)
	mirror(t, dir, say("bytes"))
	for range 3 {
		l, before, err := receive(filepath.Join(dir, handoverSocket))
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close() // as a process does that dies
		_ = before.Close()
	}
	if status, body, err := get(t.Context(), http.DefaultClient, "http://"+c.Addr+"/"); err != nil || body != "bytes" {
		t.Errorf("%d %q, %v", status, body, err)
	}
}
