package rig

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
	"github.com/pyrsia/pyrsia-operator/node/control"
)

// Node is one node, in a process of its own.
type Node struct {
	Name    string
	Data    string // its data folder
	Open    string // addresses: HOST:PORT
	Mirror  string
	Peer    string // multiaddr for others to join by
	Control *control.Client

	program string
	args    []string
	log     string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd is over
}

func newNode(r *Rig, program, name string, args []string) (*Node, error) {
	dir := filepath.Join(r.Dir, name)
	n := &Node{Name: name, Data: filepath.Join(dir, "data"), program: program, log: filepath.Join(dir, "log")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	open, err1 := loopback.FreeAddr()
	controlAddr, err2 := loopback.FreeAddr()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	n.Open = open
	own, err := writeKeys(filepath.Join(dir, "node"))
	if err != nil {
		return nil, err
	}
	operator, err := writeKeys(filepath.Join(dir, "operator"))
	if err != nil {
		return nil, err
	}
	n.Control, err = control.NewClient(controlAddr, control.Keys{Own: operator, Peer: own.Public().(ed25519.PublicKey)})
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(mustFree(), ":")
	n.args = append([]string{
		"node", "--data", n.Data, "--open-addr", open, "--p2p-port", port,
		"--control-addr", controlAddr, "--control-key", filepath.Join(dir, "node.key"), "--operator-key", filepath.Join(dir, "operator.pub"),
	}, args...)
	return n, nil
}

// mustFree gives a port that is free now. It stays the node's over restarts.
func mustFree() string {
	addr, err := loopback.FreeAddr()
	if err != nil {
		return "127.0.0.1:0"
	}
	return addr
}

func writeKeys(file string) (ed25519.PrivateKey, error) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	private, err1 := control.MarshalPrivateKey(key)
	pub, err2 := control.MarshalPublicKeys(public)
	return key, errors.Join(err1, err2, os.WriteFile(file+".key", private, 0o600), os.WriteFile(file+".pub", pub, 0o600))
}

// Start starts the node, again if it was stopped, and returns when it answers.
func (n *Node) Start(ctx context.Context) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(n.program, n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// None is left behind however this program dies.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	n.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}(n.cmd)
	return n.await(ctx, func() error {
		status, err := n.Control.Status(ctx, 0)
		if err != nil {
			return err
		}
		for _, a := range status.Addrs {
			if strings.HasPrefix(a, "/ip4/127.0.0.1/tcp/") {
				n.Peer = a + "/p2p/" + status.PeerID
				return nil
			}
		}
		return fmt.Errorf("%s listens on %v", n.Name, status.Addrs)
	})
}

// AwaitReady waits until the node says that it is ready.
func (n *Node) AwaitReady(ctx context.Context) error {
	return n.await(ctx, func() error { return Get(ctx, "http://"+n.Open+"/readyz") })
}

// AwaitBlock waits until the node has a block.
func (n *Node) AwaitBlock(ctx context.Context, height int64) error {
	return n.await(ctx, func() error { return Get(ctx, fmt.Sprintf("http://%s/api/v1/blocks/%d", n.Open, height)) })
}

// Get fetches a URL to its end.
func Get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (n *Node) await(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-n.ended:
			said, _ := os.ReadFile(n.log)
			return fmt.Errorf("%s has ended, and said: %s", n.Name, said[max(0, len(said)-2000):])
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: see %s", n.Name, err, n.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// PID is the process.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Blob is where the node keeps a blob.
func (n *Node) Blob(hex string) string { return filepath.Join(n.Data, "store", "blobs", "sha256", hex) }

// Stop ends the node as an init system does.
func (n *Node) Stop() error {
	if n.cmd == nil {
		return nil
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may be over
	select {
	case <-n.ended:
	case <-time.After(time.Minute):
		n.Kill()
		return fmt.Errorf("%s did not end within a minute", n.Name)
	}
	return nil
}

// Kill kills the node.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill() // it may be over
	<-n.ended
}
