package p2p

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	projected = 100_000          // nodes
	refresh   = 10 * time.Minute // how often kad-dht refreshes the routing table
	maxBucket = 16               // buckets of the routing table that it refreshes
	blobs     = 100_000          // of the node whose announcing is reckoned
)

//go:embed testdata/scale.md.tmpl
var scaleText string

// series is one line of the plot: a measure at each size, and how it goes on.
type series struct {
	Name  string
	Color string
	Of    func(row) float64
}

var (
	lookupHops     = series{"lookup, mean", "#0b6e99", func(r row) float64 { return r.Hops }}
	checkpointHops = series{"checkpoint, the last node", "#c0392b", func(r row) float64 { return float64(r.SpreadMax) }}
	needed         = series{"requests until the holder is known", "#0b6e99", func(r row) float64 { return r.Needed }}
	asked          = series{"requests of a lookup", "#7d3c98", func(r row) float64 { return r.Asked }}
	perKey         = series{"messages per announced key", "#b9770e", func(r row) float64 { return r.Messages }}
	refreshed      = series{"", "", func(r row) float64 { return r.Refreshed }}
)

// project goes on from the last size by what was gained per doubling over the
// last three: all of these grow with the logarithm of the number of nodes.
// Networks in which all nodes have all records are left out.
func (s series) project(rows []row) float64 {
	var x, y []float64
	for _, r := range rows[max(0, len(rows)-3):] {
		if r.Nodes > replicas {
			x, y = append(x, math.Log2(float64(r.Nodes))), append(y, s.Of(r))
		}
	}
	last := s.Of(rows[len(rows)-1])
	return last + max(0, slope(x, y))*math.Log2(projected/float64(rows[len(rows)-1].Nodes))
}

// slope is that of the line of least squares.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

// keysOf is how many keys a node with that many blobs announces.
func keysOf(blobs int) int {
	a := newAnnouncer()
	for i := range blobs {
		a.set(digest.FromString(fmt.Sprint(i)), true)
	}
	return len(a.keys(time.Now()))
}

func writeScale(dir string, rows []row) error {
	last := rows[len(rows)-1]
	keys := keysOf(blobs)
	perSecond := func(keys int, messages float64) float64 { return float64(keys) * messages / announceAgain.Seconds() }
	refreshing := func(buckets, lookup float64) float64 {
		return (1 + min(buckets, maxBucket)) * lookup / refresh.Seconds() // and one for the node itself
	}
	messages := perKey.project(rows)
	found := func(share float64) string { return fmt.Sprintf("%.0f%%", 100*(1-math.Pow(1-share, maxFound))) }
	data := map[string]any{
		"Rows": rows, "Last": last, "Lookups": lookups, "Checkpoints": checkpoints, "CheckpointSize": checkpointSize,
		"Latency": simulatedLatency, "K": replicas, "Low": lowPeers, "High": highPeers, "Projected": "100,000",
		"Blobs": "100,000", "Keys": keys, "MaxAnnounced": maxAnnounced, "Shards": shards,
		"Hours": announceAgain.Hours(), "ValidHours": recordValidity.Hours(),
		"Hops": lookupHops.project(rows), "Needed": needed.project(rows), "Asked": asked.project(rows),
		"Messages": messages, "Spread": checkpointHops.project(rows),
		"HopsExpected": math.Ceil(math.Log2(projected/replicas) / math.Log2(2*replicas)),
		"HopsBound":    math.Ceil(math.Log2(projected / replicas)),
		"SpreadSlope":  1 / math.Log2(5), "SpreadExpected": float64(last.SpreadMax) + math.Log2(projected/float64(last.Nodes))/math.Log2(5),
		"Seconds":    checkpointHops.project(rows) * simulatedLatency.Seconds(),
		"Announcing": func(r row) float64 { return perSecond(keys, r.Messages) },
		"Refreshing": func(r row) float64 { return refreshing(r.Refreshed, r.Messages-r.Records) },
		"AnnounceAt": perSecond(keys, messages), "AnnounceMost": perSecond(maxAnnounced, messages),
		"RefreshAt":  refreshing(refreshed.project(rows), messages-replicas),
		"NotesMost":  3 * (highPeers - 6) / 4,
		"KeptMost":   maxAnnounced * replicas,
		"KeptShards": shards * replicas,
		"MaxRecords": maxRecords,
		"PerKey":     maxRecordsPerKey,
		"HotRecords": projected / announceAgain.Seconds(),
		"HotNodes":   shards * replicas,
		"MaxConns":   maxConns,
		"Reach":      maxRecordsPerKey * maxConns,
		"MaxFound":   maxFound,
		"Tenth":      found(0.1),
		"Hundredth":  found(0.01),
	}
	var text bytes.Buffer
	t, err := template.New("scale.md").Funcs(template.FuncMap{"f": func(x float64) string { return fmt.Sprintf("%.1f", x) }}).Parse(scaleText)
	if err != nil {
		return err
	}
	if err := t.Execute(&text, data); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "scale.md"), text.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "scale.svg"), plotScale(rows), 0o644)
}

const panelWidth, panelHeight, panelMargin = 400.0, 300.0, 50.0

// plotScale draws what was measured as lines, and the projection dashed.
func plotScale(rows []row) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="11">`+"\n",
		2*(panelWidth+2*panelMargin), panelHeight+2*panelMargin)
	fmt.Fprint(&b, `<rect width="100%" height="100%" fill="white"/>`+"\n")
	plotPanel(&b, rows, panelMargin, "hops", lookupHops, checkpointHops)
	plotPanel(&b, rows, panelWidth+3*panelMargin, "messages", needed, asked, perKey)
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func plotPanel(b *bytes.Buffer, rows []row, left float64, title string, lines ...series) {
	top := 1.0
	for _, s := range lines {
		top = max(top, s.project(rows))
		for _, r := range rows {
			top = max(top, s.Of(r))
		}
	}
	step := math.Pow(10, math.Floor(math.Log10(top)))
	if top/step < 3 {
		step /= 4
	}
	top = math.Ceil(top/step) * step
	x := func(nodes float64) float64 { return left + panelWidth*(math.Log10(nodes)-1)/(math.Log10(projected)-1) }
	y := func(v float64) float64 { return panelMargin + panelHeight*(1-v/top) }

	fmt.Fprintf(b, `<text x="%.0f" y="30" font-size="13">%s by number of nodes</text>`+"\n", left, title)
	for v := 0.0; v <= top; v += step {
		fmt.Fprintf(b, `<path d="M%.1f %.1fh%.0f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%g</text>`+"\n",
			left, y(v), panelWidth, left-6, y(v)+4, v)
	}
	for nodes := 10.0; nodes <= projected; nodes *= 10 {
		fmt.Fprintf(b, `<path d="M%.1f %.1fv%.0f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%.0f</text>`+"\n",
			x(nodes), panelMargin, panelHeight, x(nodes), panelMargin+panelHeight+16, nodes)
	}
	for i, s := range lines {
		var points []string
		for _, r := range rows {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(r.Nodes)), y(s.Of(r))))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), s.Color)
		fmt.Fprintf(b, `<polyline points="%s %.1f,%.1f" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="5 4"/>`+"\n",
			points[len(points)-1], x(projected), y(s.project(rows)), s.Color)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n", left+10, panelMargin+16+float64(i)*15, s.Color, s.Name)
	}
}
