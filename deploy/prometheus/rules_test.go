package prometheus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// rule is as much of a rule as is held here.
type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	files, err := filepath.Glob("rules/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		var doc struct {
			Groups []struct{ Rules []rule }
		}
		require.NoError(t, yaml.Unmarshal(read(t, file), &doc), file)
		for _, g := range doc.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// Each alert tells what is the matter, has a page that tells what to do, and a test in which it fires.
func TestAlerts(t *testing.T) {
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []struct {
					ExpAnnotations map[string]string `yaml:"exp_annotations"`
				} `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	require.NoError(t, yaml.Unmarshal(read(t, "tests/alerts.yml"), &tests))
	fires, waits := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.AlertRuleTest {
			if len(a.ExpAlerts) == 0 {
				waits[a.Alertname] = true
				continue
			}
			fires[a.Alertname] = true
			for _, e := range a.ExpAlerts {
				require.NotRegexp(t, `\{\{|<no value>|NaN|Inf|^\s*$`, strings.Join([]string{e.ExpAnnotations["summary"], e.ExpAnnotations["description"]}, "\n"), a.Alertname)
			}
		}
	}
	pages := map[string]bool{"README.md": true}
	index := string(read(t, "../../docs/runbooks/README.md"))
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		require.Contains(t, []string{"critical", "warning", "info"}, r.Labels["severity"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.NotEmpty(t, r.Annotations["description"], r.Alert)
		require.Equal(t, "docs/runbooks/"+r.Alert+".md", r.Annotations["runbook_url"])
		page := string(read(t, "../../"+r.Annotations["runbook_url"]))
		require.True(t, strings.HasPrefix(page, "# "+r.Alert+"\nSeverity: "+r.Labels["severity"]+"."), r.Alert)
		require.Contains(t, page, "\n## Look\n", r.Alert)
		require.Contains(t, page, "\n## Do\n", r.Alert)
		require.Contains(t, index, "["+r.Alert+"]("+r.Alert+".md) | "+r.Labels["severity"]+" |", "docs/runbooks/README.md")
		require.True(t, fires[r.Alert], "%s: tests/alerts.yml has no test in which it fires", r.Alert)
		require.True(t, waits[r.Alert], "%s: tests/alerts.yml has no moment before it fires", r.Alert)
		pages[r.Alert+".md"] = true
	}
	entries, err := os.ReadDir("../../docs/runbooks")
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, pages[e.Name()], "docs/runbooks/%s is of no alert", e.Name())
	}
}

// Rules ask for series that there are: those of the table of metrics, and those that rules record.
func TestRulesAskForWhatThereIs(t *testing.T) {
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("`(footfall_[a-z0-9_]+)").FindAllStringSubmatch(string(read(t, "../../docs/operations.md")), -1) {
		known[m[1]] = true
	}
	all := rules(t)
	for _, r := range all {
		known[r.Record] = true
	}
	name := regexp.MustCompile(`\bfootfall[:_][a-z0-9_:]+`)
	for _, r := range all {
		for _, m := range name.FindAllString(r.Expr, -1) {
			base := strings.TrimSuffix(strings.TrimSuffix(m, "_bucket"), "_count")
			require.True(t, known[m] || known[base], "%s%s asks for %s", r.Alert, r.Record, m)
		}
	}
}

// Prometheus' own tool reads the configuration, and has every alert fire in its test and stay silent while all is well.
func TestPromtool(t *testing.T) {
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is missing: run make prometheus-install") // what checks nothing must not pass
	}
	files, err := filepath.Glob("tests/*.yml")
	require.NoError(t, err)
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, append([]string{"test", "rules"}, files...)} {
		out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	for _, targets := range []string{"targets.yml", "targets.compose.yml"} {
		var groups []struct {
			Targets []string
			Labels  map[string]string
		}
		require.NoError(t, yaml.Unmarshal(read(t, targets), &groups))
		require.NotEmpty(t, groups)
		for _, g := range groups {
			require.Len(t, g.Targets, 1)
			require.NotEmpty(t, g.Labels["instance"], "dashboards and alerts call a node by it")
		}
	}
}
