package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/control"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

// publisher is a publisher in a process of its own.
type publisher struct {
	client   *control.Client
	verifier *ledger.Verifier
	blocks   int // that were seen
	cmd      *exec.Cmd
}

// startPublisher builds the node's program, and runs it with an upstream.
func startPublisher(ctx context.Context, dir, upstream string) (*publisher, error) {
	program := filepath.Join(dir, "pyrsia")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/pyrsia").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the node: %w: %s", err, out)
	}
	keys, files, err := writeKeys(dir)
	if err != nil {
		return nil, err
	}
	skey, vkey, err := ledger.GenerateKey("bench.example/publish")
	if err != nil {
		return nil, err
	}
	signing := filepath.Join(dir, "signing.key")
	if err := os.WriteFile(signing, []byte(skey), 0o600); err != nil {
		return nil, err
	}
	p := new(publisher)
	if p.verifier, err = ledger.NewVerifier(vkey); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "publisher.log"))
	if err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, program, "node", "--role", "Publisher", "--data", filepath.Join(dir, "data"),
		"--signing-key", signing, "--upstream", "docker.io="+upstream, "--p2p-port", "0", "--open-addr", "127.0.0.1:0",
		"--control-addr", addr, "--control-key", files[0], "--operator-key", files[1], "--log-level", "warn")
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.client, err = control.NewClient(addr, keys); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := p.client.Status(ctx, 0); err == nil {
			return p, nil
		}
		if time.Now().After(end) {
			p.stop()
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("the publisher does not start: %s", text)
		}
	}
}

func (p *publisher) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// peakRSS is the greatest memory that the process ever had, bytes.
func (p *publisher) peakRSS() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, errors.New("no VmHWM in the process's status")
	}
	kib, err := strconv.Atoi(string(fields[0]))
	return float64(kib) * 1024, err
}

// writeKeys makes both halves of the control API's keys, and the files of the
// node's half.
func writeKeys(dir string) (operator control.Keys, files [2]string, err error) {
	nodePublic, nodeKey, err1 := ed25519.GenerateKey(nil)
	operatorPublic, operatorKey, err2 := ed25519.GenerateKey(nil)
	if err := errors.Join(err1, err2); err != nil {
		return operator, files, err
	}
	own, err1 := control.MarshalPrivateKey(nodeKey)
	peer, err2 := control.MarshalPublicKey(operatorPublic)
	files = [2]string{filepath.Join(dir, "node.key"), filepath.Join(dir, "operator.pub")}
	err = errors.Join(err1, err2, os.WriteFile(files[0], own, 0o600), os.WriteFile(files[1], peer, 0o600))
	return control.Keys{Own: operatorKey, Peer: nodePublic}, files, err
}
