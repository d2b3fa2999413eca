package controllers_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/yaml"
)

// later are labels that come with what has not happened in the test.
var later = map[string]bool{"pyrsia_mirror_refusals_total": true, "pyrsia_operator_imageset_upstream_remaining": true, "pyrsia_transfer_bytes_total": true}

// Every alert and panel asks for metrics, by labels, that the operator and the
// nodes export.
func TestAlertsAndDashboardAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	c, up := testCluster(t), newUpstream(t)
	_, _, at, follower := c.pair(t, up)
	follower.pull(t, "library/alpine:3.20")
	families := map[string]*dto.MetricFamily{}
	for _, p := range []*pod{at, follower} {
		maps.Copy(families, scrape(t, "http://"+p.config.OpenAddr+"/metrics"))
	}
	all, err := metrics.Registry.Gather()
	must(t, err)
	more, err := c.metrics.Gather()
	must(t, err)
	for _, f := range append(all, more...) {
		families[f.GetName()] = f
	}
	exprs := expressions(t)
	if len(exprs) < 20 {
		t.Fatalf("only %d expressions", len(exprs))
	}
	for where, expr := range exprs {
		parsed, err := metricsql.Parse(expr)
		if err != nil {
			t.Errorf("%s: %s: %v", where, expr, err)
			continue
		}
		metricsql.VisitAll(parsed, func(e metricsql.Expr) {
			m, ok := e.(*metricsql.MetricExpr)
			if !ok {
				return
			}
			for _, filters := range m.LabelFilterss {
				checkSelector(t, where, families, filters)
			}
		})
	}
}

func checkSelector(t *testing.T, where string, families map[string]*dto.MetricFamily, filters []metricsql.LabelFilter) {
	t.Helper()
	name := filters[0].Value
	family := families[name]
	if family == nil {
		family = families[strings.TrimSuffix(name, "_bucket")] // of a histogram
	}
	if family == nil {
		if !later[name] {
			t.Errorf("%s: nothing exports %s", where, name)
		}
		return
	}
	for _, f := range filters[1:] {
		found := false
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				found = found || l.GetName() == f.Label
			}
		}
		if !found {
			t.Errorf("%s: %s has no label %s", where, name, f.Label)
		}
	}
}

func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, 1<<22))
	must(t, err)
	return families
}

// expressions are those of all alerts and panels, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	read(t, "../charts/pyrsia-operator/monitoring/alerts.yaml", &rules)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("the alert %s has no severity, summary or description", r.Alert)
			}
			if _, err := model.ParseDuration(r.For); r.For != "" && err != nil {
				t.Errorf("the alert %s: %v", r.Alert, err)
			}
			out["alert "+r.Alert] = r.Expr
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, RefID string }
		}
	}
	read(t, "../charts/pyrsia-operator/monitoring/dashboard.json", &board)
	for _, p := range board.Panels {
		for i, target := range p.Targets {
			out[fmt.Sprintf("panel %s, %d", p.Title, i)] = target.Expr
		}
	}
	return out
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		data, err = yaml.YAMLToJSON(data)
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
