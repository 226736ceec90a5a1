package grafana_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"footfall/deploy/grafana"
)

func TestMain(m *testing.M) {
	plugins.RegisterDefaultPlugins() // what decodes options of panels, and queries
	goleak.VerifyTestMain(m)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

type model = dashboard.Dashboard //nolint:staticcheck // see model of the package

// loaded are the dashboards as Grafana's own types read what is checked in, strictly.
func loaded(t *testing.T) (all []model) {
	t.Helper()
	files, err := filepath.Glob("dashboards/*.json")
	require.NoError(t, err)
	for _, file := range files {
		d, err := decode(read(t, file))
		require.NoError(t, err, file)
		all = append(all, d)
	}
	return all
}

// decode takes nothing that the types do not know, and nothing that they do not allow.
func decode(text string) (d model, err error) {
	var faults cog.BuildErrors
	if err := decodeFolded(text); err != nil {
		return d, err
	}
	if err := d.UnmarshalJSONStrict([]byte(text)); err != nil && (!errors.As(err, &faults) || len(faults) > 0) {
		return d, err
	}
	// The SDK takes an empty list of faults for an error, and then leaves panels out.
	d = model{}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return d, err
	}
	return d, d.Validate()
}

// decodeFolded looks at the panels of folded rows, which the type of a row takes as they are.
func decodeFolded(text string) error {
	var rows struct {
		Panels []struct {
			Panels []json.RawMessage `json:"panels"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return err
	}
	for _, r := range rows.Panels {
		for _, text := range r.Panels {
			var (
				p      dashboard.Panel
				faults cog.BuildErrors
			)
			if err := p.UnmarshalJSONStrict(text); err != nil && (!errors.As(err, &faults) || len(faults) > 0) {
				return err
			}
		}
	}
	return nil
}

// A check that takes anything would show nothing.
func TestDecodingIsStrict(t *testing.T) {
	text := read(t, "dashboards/footfall-operations.json")
	for _, key := range []string{"gridPos", "expr", "schemaVersion", "reduceOptions", "lineWidth", "allValue"} {
		require.Contains(t, text, `"`+key+`":`)
		_, err := decode(strings.Replace(text, `"`+key+`":`, `"`+key+`s":`, 1))
		require.Error(t, err, key)
	}
}

// panels are those of a dashboard, those of folded rows included.
func panels(d model) (all []dashboard.Panel) {
	for _, p := range d.Panels {
		if p.Panel != nil {
			all = append(all, *p.Panel)
		}
		if p.RowPanel != nil {
			all = append(all, p.RowPanel.Panels...)
		}
	}
	return all
}

func exprs(p dashboard.Panel) (all []string) {
	for _, target := range p.Targets {
		if q, ok := target.(*prometheus.Dataquery); ok {
			all = append(all, q.Expr)
		}
	}
	return all
}

// What is checked in is what the code makes, and there is nothing else.
func TestCheckedIn(t *testing.T) {
	all, err := grafana.Dashboards(grafana.DefaultRunbooks)
	require.NoError(t, err)
	var names []string
	for _, d := range all {
		same := string(d.JSON) == read(t, filepath.Join("dashboards", d.File)) // a difference of thousands of lines helps nobody
		require.True(t, same, "%s is not what the code makes: run make dashboards", d.File)
		names = append(names, filepath.Join("dashboards", d.File))
	}
	files, err := filepath.Glob("dashboards/*")
	require.NoError(t, err)
	require.ElementsMatch(t, names, files)
}

// Runbooks may be anywhere.
func TestRunbooksElsewhere(t *testing.T) {
	all, err := grafana.Dashboards("https://example.org/runbooks")
	require.NoError(t, err)
	for _, d := range all {
		require.Contains(t, string(d.JSON), `"query": "https://example.org/runbooks"`)
		require.NotContains(t, string(d.JSON), `"`+grafana.DefaultRunbooks+`"`)
	}
}

// Every panel can be read without knowing it already.
func TestPanelsSayWhatTheyShow(t *testing.T) {
	uids, titles := map[string]bool{}, map[string]bool{}
	for _, d := range loaded(t) {
		require.False(t, uids[*d.Uid] || titles[*d.Title], *d.Title)
		uids[*d.Uid], titles[*d.Title] = true, true
		require.Contains(t, d.Tags, "footfall", *d.Title) // what links between dashboards go by
		require.Len(t, d.Links, 2, *d.Title)
		require.NotEmpty(t, d.Description)
		require.GreaterOrEqual(t, len(panels(d)), 10, *d.Title)
		require.LessOrEqual(t, len(panels(d)), 45, "%s is a wall", *d.Title)
		seen := map[string]bool{}
		ids := map[uint32]bool{}
		for _, p := range panels(d) {
			name := *d.Title + ": " + *p.Title
			require.False(t, seen[*p.Title] || ids[*p.Id], name)
			seen[*p.Title], ids[*p.Id] = true, true
			require.Greater(t, len(*p.Description), 30, name)
			require.True(t, strings.HasSuffix(*p.Description, "."), name)
			require.NotEmpty(t, *p.FieldConfig.Defaults.Unit, name)
			require.NotEmpty(t, exprs(p), name)
			for _, l := range p.Links {
				page := strings.TrimPrefix(*l.Url, "${runbooks}/")
				require.FileExists(t, filepath.Join("../../docs/runbooks", page), name)
			}
		}
	}
	require.Len(t, uids, 4)
}

// Panels fill lines of 24 columns, and none lies on another.
func TestPanelsFit(t *testing.T) {
	for _, d := range loaded(t) {
		taken := map[[2]uint32]string{}
		for _, p := range panels(d) {
			g := p.GridPos
			require.LessOrEqual(t, g.X+g.W, uint32(24), *p.Title)
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					require.Empty(t, taken[[2]uint32{x, y}], "%s: %s", *d.Title, *p.Title)
					taken[[2]uint32{x, y}] = *p.Title
				}
			}
		}
	}
}

// Queries ask for series that nodes have or rules record, and for variables that the dashboard has.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("`(footfall_[a-z0-9_]+)").FindAllStringSubmatch(read(t, "../../docs/operations.md"), -1) {
		known[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(read(t, "../prometheus/rules/recording.yml"), -1) {
		known[m[1]] = true
	}
	metric := regexp.MustCompile(`\bfootfall[:_][a-z0-9_:]+`)
	variable := regexp.MustCompile(`\$\{?([a-z]+)\b`)
	for _, d := range loaded(t) {
		has := map[string]bool{}
		queries := []string{}
		for _, v := range d.Templating.List {
			has[v.Name] = true
			if v.Query != nil && v.Query.Map != nil {
				queries = append(queries, v.Query.Map["query"].(string))
			}
		}
		for _, p := range panels(d) {
			queries = append(queries, exprs(p)...)
		}
		for _, query := range queries {
			for _, m := range metric.FindAllString(query, -1) {
				base := strings.TrimSuffix(strings.TrimSuffix(m, "_bucket"), "_count")
				require.True(t, known[m] || known[base], "%s asks for %s", *d.Title, m)
			}
			for _, m := range variable.FindAllStringSubmatch(query, -1) {
				require.True(t, has[m[1]] || strings.HasPrefix(m[1], "__"), "%s has no variable %s", *d.Title, m[1])
			}
		}
		for _, must := range []string{"datasource", "runbooks"} {
			require.True(t, has[must], "%s has no variable %s", *d.Title, must)
		}
	}
}

// Colours are those of the palette that everybody can tell apart.
func TestColors(t *testing.T) {
	allowed := []string{"#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#8E8E8E"}
	color := regexp.MustCompile(`"(?:color|fixedColor|iconColor)": "([^"]+)"`)
	files, err := filepath.Glob("dashboards/*.json")
	require.NoError(t, err)
	for _, file := range files {
		for _, m := range color.FindAllStringSubmatch(read(t, file), -1) {
			require.Contains(t, allowed, m[1], file)
		}
	}
}

// Provisioning reads, and names the folder and the source that dashboards are for.
func TestProvisioning(t *testing.T) {
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct{ Name, UID, Type, URL string }
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "provisioning/datasources/prometheus.yml")), &sources))
	require.Equal(t, 1, sources.APIVersion)
	require.Len(t, sources.Datasources, 1)
	require.Equal(t, "prometheus", sources.Datasources[0].Type)
	var boards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "provisioning/dashboards/footfall.yml")), &boards))
	require.Equal(t, 1, boards.APIVersion)
	require.Equal(t, "file", boards.Providers[0].Type)
	require.Equal(t, "${DASHBOARDS}", boards.Providers[0].Options.Path)
}
