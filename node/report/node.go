package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pyrsia/pyrsia-operator/node/client"
)

// Status shows how a node is.
func Status(w io.Writer, s client.Status) error {
	ready := "ready"
	if !s.Ready {
		ready = "not ready: no verified ledger yet"
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "Node:\t%s, %s, version %s, up %s\n", s.Role, ready, s.Version, time.Duration(s.Uptime*float64(time.Second)).Round(time.Second))
	fmt.Fprintf(tw, "Peer ID:\t%s\n", s.PeerID)
	for i, a := range s.Addrs {
		label := ""
		if i == 0 {
			label = "Addresses:"
		}
		fmt.Fprintf(tw, "%s\t%s\n", label, a)
	}
	fmt.Fprintf(tw, "Ledger:\t%s, %d blocks verified\n", s.Ledger, s.Blocks)
	fmt.Fprintf(tw, "Ledger key:\t%s\n", s.LedgerKey)
	fmt.Fprintf(tw, "Peers:\t%d connected\n", s.Peers)
	fmt.Fprintf(tw, "Content:\t%d blobs, %s, of %d artifacts\n", s.Blobs, humanize.IBytes(uint64(s.Bytes)), s.Artifacts)
	fmt.Fprintf(tw, "Announced:\t%d keys\n", s.Announced)
	fmt.Fprintf(tw, "On the way:\t%d blobs, %d pieces to come\n", s.Downloads, s.Queued)
	for i, registry := range slices.Sorted(maps.Keys(s.Asked)) {
		label := ""
		if i == 0 {
			label = "Asked for:"
		}
		fmt.Fprintf(tw, "%s\t%s, by containerd %s ago\n", label, registry, max(0, time.Since(s.Asked[registry])).Round(time.Second))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(tw, "Problem:\t%s (%d times since %s): %s\n", p.Source, p.Tries, p.Since.Format(time.RFC3339), p.Error)
	}
	return tw.Flush()
}

// Peers lists the peers of a node.
func Peers(w io.Writer, peers []client.Peer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "PEER\tADDRESS\tDIRECTION\tCONNECTED\tLATENCY\tVIA\tRECEIVED\tSTATE")
	for _, p := range peers {
		latency := "-"
		if p.Latency > 0 {
			latency = time.Duration(p.Latency * float64(time.Second)).Round(10 * time.Microsecond).String()
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, p.Addr, p.Direction,
			time.Since(p.Since).Round(time.Second), latency, p.Via, humanize.IBytes(uint64(p.Received)), p.State)
	}
	return tw.Flush()
}
