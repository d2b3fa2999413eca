// Package testnet runs nodes as processes on hosts of their own: network
// namespaces, joined by a bridge, with links that can be shaped, cut and made
// lossy. All of it lives in a namespace of the test program itself, and is
// gone when that ends. It needs root.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// inside marks the program that runs in a namespace of its own.
const inside = "PYRSIA_TESTNET"

// Enter runs this program again in a network namespace of its own, where it
// may do as it likes, and exits with its status. In there it returns.
func Enter() {
	if os.Getenv(inside) != "" {
		// This program is the way out of each network, where private addresses lead nowhere.
		if err := run("ip", "link", "set", "lo", "up", ";", "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "a network namespace of its own (as root):", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Network is the hosts of one test.
type Network struct {
	number int  // of this network in its program
	only6  bool // its hosts have no IPv4
	mu     sync.Mutex
	hosts  []*Host
}

var networks struct {
	sync.Mutex
	n int
}

// New makes a network without hosts. This program is at Gateway.
func New() (*Network, error) { return newNetwork(false) }

// NewIPv6 makes one without IPv4 addresses except loopback.
func NewIPv6() (*Network, error) { return newNetwork(true) }

func newNetwork(only6 bool) (*Network, error) {
	networks.Lock()
	networks.n++
	n := &Network{number: networks.n, only6: only6}
	networks.Unlock()
	if os.Getenv(inside) == "" {
		return nil, errors.New("testnet.Enter was not called")
	}
	address := []string{"ip", "address", "add", n.Gateway() + "/24", "dev", n.bridge(0)}
	if only6 {
		address = []string{"ip", "address", "add", n.Gateway() + "/64", "dev", n.bridge(0), "nodad"}
	}
	if err := run("ip", "link", "add", n.bridge(0), "type", "bridge", ";", "ip", "link", "set", n.bridge(0), "up"); err != nil {
		return nil, err
	}
	return n, run(slices.Concat(address, []string{";",
		"ip", "link", "add", n.bridge(1), "type", "bridge", ";", "ip", "link", "set", n.bridge(1), "up"})...)
}

func (n *Network) bridge(i int) string { return fmt.Sprintf("br%d-%d", n.number, i) }

// Gateway is the address of the test program in the network. Those of the hosts
// are public like it, because nodes treat private ones differently.
func (n *Network) Gateway() string {
	if n.only6 {
		return fmt.Sprintf("2a00:77:%d::fe", n.number)
	}
	return fmt.Sprintf("44.77.%d.254", n.number)
}

// Host is a machine of the network.
type Host struct {
	Name string
	IP   string // and, unless it is behind a NAT, IP6; the same without IPv4

	net    *Network
	number int
	holder *exec.Cmd // whose namespace it is
	stdin  io.Closer
}

// Host adds a host.
func (n *Network) Host(name string) (*Host, error) {
	h, err := n.machine(name)
	if err != nil {
		return nil, err
	}
	err = run("ip", "link", "add", h.port(), "type", "veth", "peer", "name", "eth0", "netns", h.pid(), ";",
		"ip", "link", "set", h.port(), "master", n.bridge(0), "up")
	if err != nil {
		return nil, err
	}
	setUp := []string{"ip", "-6", "address", "add", h.IP6() + "/64", "dev", "eth0", "nodad", ";", "ip", "link", "set", "eth0", "up", ";"}
	if n.only6 {
		h.IP = h.IP6()
		return h, h.run(append(setUp, "ip", "-6", "route", "add", "default", "via", n.Gateway())...)
	}
	h.IP = fmt.Sprintf("44.77.%d.%d", n.number, h.number)
	return h, h.run(append(setUp, "ip", "address", "add", h.IP+"/24", "dev", "eth0", ";", "ip", "route", "add", "default", "via", n.Gateway())...)
}

// machine adds a host without a link.
func (n *Network) machine(name string) (*Host, error) {
	n.mu.Lock()
	h := &Host{Name: name, net: n, number: len(n.hosts) + 1}
	n.hosts = append(n.hosts, h)
	n.mu.Unlock()
	// It ends when its input does, so that no namespace outlives the test.
	h.holder = exec.Command("cat")
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var err error
	if h.stdin, err = h.holder.StdinPipe(); err != nil {
		return nil, err
	}
	if err := Start(h.holder); err != nil {
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	return h, h.run("ip", "link", "set", "lo", "up")
}

func (h *Host) pid() string { return strconv.Itoa(h.holder.Process.Pid) }

// IP6 is the host's IPv6 address.
func (h *Host) IP6() string {
	if h.net.only6 {
		return fmt.Sprintf("2a00:77:%d::%x", h.net.number, h.number)
	}
	return fmt.Sprintf("fd77:%d::%d", h.net.number, h.number)
}

// port is the host's place at the bridge.
func (h *Host) port() string { return fmt.Sprintf("v%d-%d", h.net.number, h.number) }

// starts are commands to be started.
var starts = sync.OnceValue(func() chan func() {
	c := make(chan func())
	go func() {
		// A child with Pdeathsig dies with the thread that started it, so that
		// must be one that lives as long as the program.
		runtime.LockOSThread()
		for start := range c {
			start()
		}
	}()
	return c
})

// Start starts a command that ends, at the latest, with this program.
func Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	err := make(chan error)
	starts() <- func() { err <- cmd.Start() }
	return <-err
}

// Command makes a command that runs on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", h.pid(), "-n", "--", name}, args...)...)
}

func (h *Host) run(command ...string) error {
	return run(append([]string{"nsenter", "-t", h.pid(), "-n", "--", "sh", "-ec", strings.Join(command, " ")}, ";")...)
}

// run runs commands that ";" separates.
func run(words ...string) error {
	for len(words) > 0 {
		var cmd []string
		for len(words) > 0 {
			word := words[0]
			words = words[1:]
			if word == ";" {
				break
			}
			cmd = append(cmd, word)
		}
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd, " "), err, out)
		}
	}
	return nil
}

// Shape bounds the host's link in Mbit/s, in each direction; 0 means unlimited.
func (h *Host) Shape(up, down int) error {
	tbf := func(dev string, rate int) []string {
		if rate == 0 {
			return []string{"tc", "qdisc", "delete", "dev", dev, "root", "||", "true"}
		}
		return []string{"tc", "qdisc", "replace", "dev", dev, "root", "tbf", "rate", fmt.Sprintf("%dmbit", rate),
			"burst", fmt.Sprint(max(64<<10, rate*1000)), "latency", "50ms"}
	}
	if err := h.run(tbf("eth0", up)...); err != nil {
		return err
	}
	return run("sh", "-c", strings.Join(tbf(h.port(), down), " "))
}

// Move puts the host on one of two sides of the network, which do not reach
// each other: 0, where all begin, or 1.
func (h *Host) Move(side int) error {
	return run("ip", "link", "set", h.port(), "master", h.net.bridge(side))
}

// Sent is how many bytes the host has sent, of all protocols.
func (h *Host) Sent() (int64, error) {
	data, err := os.ReadFile("/sys/class/net/" + h.port() + "/statistics/rx_bytes") // received by the bridge
	if err != nil {
		// /sys shows the namespace that it was mounted in.
		out, err := exec.Command("ip", "-s", "-j", "link", "show", h.port()).Output()
		if err != nil {
			return 0, fmt.Errorf("counting bytes: %w", err)
		}
		_, rest, _ := strings.Cut(string(out), `"rx":{"bytes":`)
		data = []byte(rest[:strings.IndexByte(rest, ',')])
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Close ends the hosts' namespaces.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, h := range n.hosts {
		if h.holder == nil || h.holder.Process == nil {
			continue
		}
		errs = append(errs, h.stdin.Close())
		_ = h.holder.Wait() // it ends with its input
		// The veth is removed with its namespace, but not immediately.
		_ = exec.Command("ip", "link", "delete", h.port()).Run()
	}
	for i := range 2 {
		errs = append(errs, run("ip", "link", "delete", n.bridge(i)))
	}
	return errors.Join(errs...)
}
