//go:build scratch

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"syscall"
	"time"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func cpu() (u, s time.Duration) {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
}

func init() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case "xserve": // N
		n, _ := strconv.Atoi(os.Args[2])
		os.RemoveAll("/tmp/perf/big")
		b, err := makeLedger("/tmp/perf/big", n)
		if err != nil {
			panic(err)
		}
		b.show(n)
		url, _, err := serve(b)
		if err != nil {
			panic(err)
		}
		os.WriteFile("/tmp/perf/url", []byte(url), 0o644)
		os.WriteFile("/tmp/perf/vkey", []byte(b.vkey), 0o644)
		fmt.Println("serving")
		select {}
	case "xsync":
		url, _ := os.ReadFile("/tmp/perf/url")
		vkey, _ := os.ReadFile("/tmp/perf/vkey")
		os.RemoveAll("/tmp/perf/copy")
		f, err := ledger.OpenFollower(context.Background(), "/tmp/perf/copy", string(vkey), slog.New(slog.DiscardHandler))
		if err != nil {
			panic(err)
		}
		p, _ := os.Create("/tmp/perf/cpu.prof")
		pprof.StartCPUProfile(p)
		start := time.Now()
		_, err = f.Sync(context.Background(), ledger.NewSource(string(url), http.DefaultClient))
		took := time.Since(start)
		pprof.StopCPUProfile()
		u, s := cpu()
		rss, _ := peakRSS()
		fmt.Println("err", err, "wall", took, "user", u, "sys", s, "rss MB", rss/(1<<20))
		os.Exit(0)
	}
}
