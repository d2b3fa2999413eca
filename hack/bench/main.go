// Command bench measures the project against its peers and against physical
// limits, in the same run, and prints the ratios. `make bench` runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pyrsia/pyrsia-operator/hack/testnet"
)

// row is one result. Value is in the unit that the row's target is given in;
// ratio is what was measured by what it was measured against.
type row struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against"`
	Ratio   float64 `json:"ratio"`

	target string // for the screen
}

// benchmark makes the rows that it names.
type benchmark struct {
	rows []string
	run  func(ctx context.Context, dir string) ([]row, error)
}

func benchmarks() []benchmark {
	return slices.Concat(auditBenchmarks(), ledgerBenchmarks(), mirrorBenchmarks(), operatorBenchmarks(), p2pBenchmarks(), publishBenchmarks(), refuseBenchmarks())
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == syncCommand {
		if err := syncAlone(context.Background(), os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 5 && os.Args[1] == indexCommand {
		if err := indexAlone(context.Background(), os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 4 && os.Args[1] == rawCommand {
		fmt.Fprintln(os.Stderr, "bench:", serveFile(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	if len(os.Args) == 4 && os.Args[1] == floorCommand {
		fmt.Fprintln(os.Stderr, "bench:", serveFloor(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	pattern := flag.String("run", ".", "rows to measure, as a regular expression")
	out := flag.String("out", "bench.json", "file for the results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, *pattern, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, pattern, out string) error {
	want, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	for _, b := range p2pBenchmarks() {
		if slices.ContainsFunc(b.rows, want.MatchString) {
			testnet.Enter()
		}
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	klog.SetSlogLogger(slog.Default())
	log.SetLogger(klog.Background()) // envtest's
	rows := []row{}
	for _, b := range benchmarks() {
		if !slices.ContainsFunc(b.rows, want.MatchString) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s ...\n", strings.Join(b.rows, ", "))
		got, err := inFolder(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(b.rows, ", "), err)
		}
		rows = append(rows, got...)
	}
	if len(rows) == 0 {
		return fmt.Errorf("no row matches %q", pattern)
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(table(os.Stdout, rows), os.WriteFile(out, append(data, '\n'), 0o644))
}

func inFolder(ctx context.Context, b benchmark) (rows []row, err error) {
	dir, err := os.MkdirTemp("", "pyrsia-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return b.run(ctx, dir)
}

func table(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "ROW\tVALUE\tTARGET\tRATIO\tAGAINST")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%.4g %s\t%s\t%.3g\t%s\n", r.Name, r.Value, r.Unit, r.target, r.Ratio, r.Against)
	}
	return tw.Flush()
}

// median is of values that it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// percentile is of times that it sorts.
func percentile(times []time.Duration, p float64) time.Duration {
	slices.Sort(times)
	return times[min(len(times)-1, int(p*float64(len(times))))]
}
