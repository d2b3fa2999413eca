package socketproxy

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// The kernel closes the connection of a client that takes nothing, whatever
// process writes to it.
func TestStalledClientsEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String()) // and never reads
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := boundStall(conn.(*net.TCPConn), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, syscall.ETIMEDOUT) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the connection stays open")
	}
}
