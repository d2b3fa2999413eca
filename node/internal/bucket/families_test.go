package bucket

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/pyrsia/pyrsia-operator/hack/s3test"
)

// An endpoint may be an IPv6 address, with and without a port.
func TestEndpointsOfIPv6(t *testing.T) {
	for _, endpoint := range []string{"http://[fd00:10::7]:9000", "https://[fd00:10::7]:9000", "http://[fd00:10::7]", "https://[fd00:10::7]/"} {
		if _, err := connect(Config{URL: "s3://content?endpoint=" + endpoint}); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

// A blob goes to a real bucket at an IPv6 address, and comes back.
func TestBucketAtAnIPv6Address(t *testing.T) {
	gateway := s3test.Start(t)
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("this machine has no IPv6: ", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go pass(l, gateway.Addr)
	b, err := Open(t.Context(), Config{URL: "s3://pyrsia?endpoint=http://" + l.Addr().String(), SecretDir: gateway.Secrets})
	if err != nil {
		t.Fatal(err)
	}
	const content = "a blob"
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := digest.FromString(content)
	var got strings.Builder
	if err := b.Put(t.Context(), d, file, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if err := b.Get(t.Context(), d, &got); err != nil || got.String() != content {
		t.Errorf("got %q, %v", got.String(), err)
	}
}

// pass passes connections on.
func pass(l net.Listener, to string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			_ = in.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() { _, _ = io.Copy(way[0], way[1]); _ = way[0].Close() }()
		}
	}
}
