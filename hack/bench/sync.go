package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrsia/pyrsia-operator/node/client"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// syncCommand has this program copy a ledger and nothing else, so that its
// memory is the follower's alone.
const syncCommand = "sync"

// syncResult is what that process prints.
type syncResult struct {
	Seconds float64
	PeakRSS float64 // bytes
}

// httpClient keeps as many connections as a follower makes requests at once.
var httpClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

func syncInProcess(ctx context.Context, url, vkey, dir string) (*syncResult, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, syncCommand, url, vkey, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("copying the ledger: %w", err)
	}
	result := new(syncResult)
	return result, json.Unmarshal(out, result)
}

// syncAlone is the process's side.
func syncAlone(ctx context.Context, url, vkey, dir string) error {
	f, err := replica.OpenFollower(ctx, dir, vkey, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := f.Sync(ctx, client.New(url, httpClient)); err != nil {
		return errors.Join(err, f.Close())
	}
	result := syncResult{Seconds: time.Since(start).Seconds()}
	if result.PeakRSS, err = peakRSS(); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(result), f.Close())
}

// peakRSS is the greatest memory that this process ever had, bytes.
func peakRSS() (float64, error) { return processPeakRSS("self") }

// processPeakRSS is the same of any process.
func processPeakRSS(pid string) (float64, error) { return processMemory(pid, "VmHWM:") }

// processMemory is a line of a process's status (proc(5)), bytes.
func processMemory(pid, line string) (float64, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(status, []byte(line))
	fields := bytes.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("/proc/%s/status has no %s", pid, line)
	}
	kib, err := strconv.Atoi(string(fields[0]))
	return float64(kib) * 1024, err
}

// syncDisk waits until all that was written to the disk of a folder is there.
func syncDisk(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
