package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/prometheus/procfs"

	"github.com/pyrsia/pyrsia-operator/hack/loopback"
)

// rawCommand has this program serve one file and nothing else, in a process
// of its own as the others are.
const rawCommand = "serve-file"

type rawServer struct {
	addr string
	pid  int
	stop func()
}

func startRaw(ctx context.Context, file string) (*rawServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := loopback.FreeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, rawCommand, addr, file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &rawServer{addr, cmd.Process.Pid, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return s, conn.Close()
		}
		if time.Since(begin) > 10*time.Second {
			s.stop()
			return nil, err
		}
	}
}

// serveFile is the process's side.
func serveFile(addr, file string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, f)
	}))
}

// processCPU is the processor time in seconds that a process and its children
// have used.
func processCPU(pid int) (float64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := p.Stat()
	if err != nil {
		return 0, err
	}
	total := stat.CPUTime()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	for _, child := range bytes.Fields(children) {
		id, err := strconv.Atoi(string(child))
		if err != nil {
			return 0, err
		}
		spent, err := processCPU(id)
		if err != nil {
			return 0, err
		}
		total += spent
	}
	return total, nil
}
