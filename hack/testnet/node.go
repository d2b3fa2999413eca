package testnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// The ports of every node.
const (
	PortP2P     = 4001
	PortMirror  = 5000
	PortOpen    = 8080
	PortControl = 9443
)

// Node is a node of the network under test, as a process.
type Node struct {
	*Host
	Dir    string
	Args   []string // of `pyrsia`
	PeerID string   // once it was up

	mu  sync.Mutex
	cmd *exec.Cmd
	log *os.File
}

// Up starts the node's process and returns when it answers.
func (n *Node) Up(ctx context.Context) error {
	if err := n.Start(ctx); err != nil {
		return err
	}
	return n.Await(ctx)
}

// Start starts the node's process.
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n.cmd = n.Command(context.WithoutCancel(ctx), n.Args[0], n.Args[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.log = log
	return Start(n.cmd)
}

// LogFile holds what the node has said.
func (n *Node) LogFile() string { return n.Dir + ".log" }

// PID is the process's.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Await returns when the node answers at its open port.
func (n *Node) Await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var said struct{ Self struct{ ID string } }
	for {
		err := GetJSON(ctx, n.Open("/peer"), &said)
		if err == nil {
			n.PeerID = said.Self.ID
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not answer, see %s: %w", n.Name, n.LogFile(), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill kills the process.
func (n *Node) Kill() error { return n.end(syscall.SIGKILL) }

// Stop has the process end by itself.
func (n *Node) Stop() error { return n.end(syscall.SIGTERM) }

func (n *Node) end(sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil
	}
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = n.cmd.Wait() // it was killed
	n.cmd = nil
	return n.log.Close()
}

// Open is a URL at the node's open port, and Mirror at its registry mirror.
func (n *Node) Open(path string) string { return "http://" + n.at(PortOpen) + path }

// Mirror is a URL at the node's registry mirror.
func (n *Node) Mirror(path string) string {
	return "http://" + n.at(PortMirror) + path
}

// at is a port of the host.
func (h *Host) at(port int) string { return net.JoinHostPort(h.IP, strconv.Itoa(port)) }

// multiaddr is what the host's address begins.
func (h *Host) multiaddr() string {
	if h.IP == h.IP6() {
		return "/ip6/" + h.IP
	}
	return "/ip4/" + h.IP
}

// Address is where others join by this node, over TCP.
func (n *Node) Address() string {
	return fmt.Sprintf("%s/tcp/%d/p2p/%s", n.multiaddr(), PortP2P, n.PeerID)
}

// QUIC is where others join by this node over QUIC.
func (n *Node) QUIC() string {
	return fmt.Sprintf("%s/udp/%d/quic-v1/p2p/%s", n.multiaddr(), PortP2P, n.PeerID)
}

// Metric reads one of the node's metrics, such as
// `pyrsia_transfer_bytes_total{source="peers"}`; 0 if it is not there.
func (n *Node) Metric(ctx context.Context, name string) (float64, error) {
	data, err := get(ctx, n.Open("/metrics"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, nil
}

// AwaitBlocks returns when the node has verified so many blocks.
func (n *Node) AwaitBlocks(ctx context.Context, blocks int64) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		var status struct{ Blocks int64 }
		err := GetJSON(ctx, n.Open("/api/v1/status"), &status)
		if err == nil && status.Blocks >= blocks {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s has %d blocks, want %d: %w", n.Name, status.Blocks, blocks, errors.Join(err, ctx.Err()))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// GetJSON reads JSON from a URL.
func GetJSON(ctx context.Context, url string, out any) error {
	data, err := get(ctx, url)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, bytes.TrimSpace(data))
	}
	return data, err
}

// Origin is the name of the ledger under test, and of its network.
const Origin = "ledger.example/testnet"

// Ledger is a publisher's side: its keys, and how the operator talks to it.
type Ledger struct {
	Publisher *Node
	Key       string // the verifier key, which mirrors pin

	control *control.Client
}

// NewPublisher prepares a publisher on a host that copies images from an
// upstream registry. It is started by Up.
func NewPublisher(h *Host, binary, dir, upstream string, args ...string) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	skey, vkey, err := ledger.GenerateKey(Origin)
	if err != nil {
		return nil, err
	}
	nodePublic, nodeKey, err1 := ed25519.GenerateKey(nil)
	operatorPublic, operatorKey, err2 := ed25519.GenerateKey(nil)
	nodePEM, err3 := control.MarshalPrivateKey(nodeKey)
	operatorPEM, err4 := control.MarshalPublicKeys(operatorPublic)
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(err1, err2, err3, err4, os.WriteFile(file("signing.key"), []byte(skey), 0o600),
		os.WriteFile(file("node.key"), nodePEM, 0o600), os.WriteFile(file("operator.pub"), operatorPEM, 0o600)); err != nil {
		return nil, err
	}
	client, err := control.NewClient(h.at(PortControl), control.Keys{Own: operatorKey, Peer: nodePublic})
	if err != nil {
		return nil, err
	}
	n := &Node{Host: h, Dir: filepath.Join(dir, h.Name)}
	n.Args = append([]string{binary, "node", "--role", "Publisher", "--data", n.Dir, "--signing-key", file("signing.key"),
		"--upstream", "docker.io=" + upstream, "--open-addr", fmt.Sprintf(":%d", PortOpen),
		"--control-addr", fmt.Sprintf(":%d", PortControl), "--control-key", file("node.key"), "--operator-key", file("operator.pub")}, args...)
	return &Ledger{Publisher: n, Key: vkey, control: client}, nil
}

// Mirror prepares a mirror on a host; bootstrap is where it joins.
func (l *Ledger) Mirror(h *Host, dir string, bootstrap []string, args ...string) *Node {
	n := &Node{Host: h, Dir: filepath.Join(dir, h.Name)}
	n.Args = []string{l.Publisher.Args[0], "node", "--role", "Mirror", "--data", n.Dir, "--ledger-key", l.Key,
		"--open-addr", fmt.Sprintf(":%d", PortOpen), "--mirror-addr", fmt.Sprintf(":%d", PortMirror)}
	for _, b := range bootstrap {
		n.Args = append(n.Args, "--bootstrap", b)
	}
	n.Args = append(n.Args, args...)
	return n
}

// Publish has an image published, as the operator does.
func (l *Ledger) Publish(ctx context.Context, image string) error {
	resolved, err := l.control.Resolve(ctx, control.ResolveRequest{Image: image})
	if err != nil {
		return err
	}
	for {
		resp, err := l.control.Publish(ctx, control.PublishRequest{Image: image, Digest: resolved.Digest})
		if err != nil {
			return err
		}
		if resp.Block != nil {
			return nil
		}
	}
}

// Memory reads a figure of a process, such as VmRSS or VmHWM, in bytes.
func Memory(pid int, name string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), name+":")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("process %d has no %s", pid, name)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}
