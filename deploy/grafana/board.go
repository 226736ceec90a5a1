package grafana

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// Dashboard is one, as Grafana loads it.
type Dashboard struct {
	// File is its name in dashboards/.
	File string
	JSON []byte
}

// DefaultRunbooks is where links to runbooks lead unless somebody says otherwise: beside the checkout.
const DefaultRunbooks = "docs/runbooks"

// Dashboards makes all of them. runbooks is the address of the pages of docs/runbooks, as a browser reaches them.
func Dashboards(runbooks string) ([]Dashboard, error) {
	var all []Dashboard
	for _, b := range []board{operations(), dataQuality(), modelBehaviour(), consumerInsights()} {
		d, err := b.build(runbooks)
		if err != nil {
			return nil, fmt.Errorf("dashboard %s: %w", b.title, err)
		}
		text, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			return nil, err
		}
		all = append(all, Dashboard{b.uid + ".json", append(text, '\n')})
	}
	return all, nil
}

// board is a dashboard's own part.
type board struct {
	uid, title, about string
	from              string
	variables         []variable
	rows              []row
}

// row has a title, and panels whose widths make lines of 24. A folded one asks for nothing until it is opened.
type row struct {
	title  string
	folded bool
	panels []*panel
}

func open(title string, panels ...*panel) row { return row{title: title, panels: panels} }
func folded(title string, panels ...*panel) row {
	return row{title: title, folded: true, panels: panels}
}

// variable is one that is chosen from the values of a label.
type variable struct {
	name, label, about, query string
	// one is of which one value is chosen, and not several or all.
	one bool
}

var (
	byNode    = variable{name: "node", label: "Node", about: "by its name", query: "label_values(footfall_build_info, instance)"}
	byShard   = variable{name: "shard", label: "Shard", about: "all unless one is looked for", query: "label_values(footfall_shard_owned, shard)"}
	byModel   = variable{name: "model", label: "Model", about: "of those that serve", query: "label_values(footfall_inference_rows_total, model)"}
	byVersion = variable{name: "version", label: "Version", about: "of the models chosen", query: `label_values(footfall_inference_rows_total{model=~"$model"}, version)`}
)

// tag is what all dashboards of Footfall have, and find one another by.
const tag = "footfall"

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

// model is that of a dashboard which every Grafana in use loads from a file. newBuilder makes one.
type model = dashboard.Dashboard //nolint:staticcheck // its successor is not loaded from files before Grafana 12

var newBuilder = dashboard.NewDashboardBuilder //nolint:staticcheck // the same

func (b board) build(runbooks string) (model, error) {
	others := dashboard.NewDashboardLinkBuilder("Footfall").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{tag}).
		IncludeVars(true).KeepTime(true).Tooltip("The other dashboards, with what is chosen here")
	pages := dashboard.NewDashboardLinkBuilder("Runbooks").Type(dashboard.DashboardLinkTypeLink).Url("${runbooks}").Icon("doc").
		TargetBlank(true).Tooltip("A page for each alert: what it means, how to look, what to do")
	d := newBuilder(b.title)
	d = d.Uid(b.uid).Description(b.about).Tags([]string{tag}).Time(b.from, "now").Refresh("30s").Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).Readonly().Link(others).Link(pages).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus"))
	for _, v := range b.variables {
		d = d.WithVariable(v.builder())
	}
	d = d.WithVariable(dashboard.NewTextBoxVariableBuilder("runbooks").Label("Runbooks at").
		Description("Where docs/runbooks is, as a browser reaches it").DefaultValue(dashboard.StringOrMap{String: new(runbooks)}).
		Current(chosen(runbooks)))
	for _, a := range annotations() {
		d = d.Annotation(a)
	}
	for _, r := range b.rows {
		head := dashboard.NewRowBuilder(r.title)
		if r.folded {
			for _, p := range r.panels {
				head = head.WithPanel(p)
			}
			d = d.WithRow(head.Collapsed(true))
			continue
		}
		d = d.WithRow(head)
		for _, p := range r.panels {
			d = d.WithPanel(p)
		}
	}
	out, err := d.Build()
	if err != nil {
		return out, err
	}
	for i := range out.Links {
		out.Links[i].Placement = nil // where everybody sees them
	}
	enumerate(&out)
	return out, nil
}

func chosen(value string) dashboard.VariableOption {
	v := dashboard.StringOrArrayOfString{String: new(value)}
	return dashboard.VariableOption{Selected: new(true), Text: v, Value: v}
}

func (v variable) builder() *dashboard.QueryVariableBuilder {
	b := dashboard.NewQueryVariableBuilder(v.name).Label(v.label).Description(v.about).Datasource(source()).
		// 5 is a query as a person writes it.
		Query(dashboard.StringOrMap{Map: map[string]any{"qryType": 5, "query": v.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}).
		Definition(v.query).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortNumericalAsc)
	if v.one {
		return b
	}
	return b.Multi(true).IncludeAll(true).AllValue(".*").Current(dashboard.VariableOption{
		Selected: new(true), Text: dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
	})
}

// annotations are what explains a bend in any curve.
func annotations() []*dashboard.AnnotationQueryBuilder {
	mark := func(name, expr, title, color string) *dashboard.AnnotationQueryBuilder {
		return dashboard.NewAnnotationQueryBuilder().Name(name).Enable(true).IconColor(color).Datasource(source()).
			Expr(expr).Step("60s").TitleFormat(title).TextFormat("{{instance}}").
			Target(prometheus.NewDataqueryBuilder().Expr(expr).RefId("Anno").Range().Interval("60s"))
	}
	return []*dashboard.AnnotationQueryBuilder{
		mark("Alerts", `ALERTS{alertstate="firing",alertname=~"Footfall.*"}`, "{{alertname}}", orange),
		mark("Starts of nodes", `changes(process_start_time_seconds{job=~".*footfall.*"}[1m]) > 0`, "start", sky),
	}
}

// enumerate gives panels their numbers, in order: links to a panel go by it.
func enumerate(d *model) {
	var next uint32
	take := func() *uint32 { next++; return new(next) }
	for i := range d.Panels {
		if p := d.Panels[i].Panel; p != nil {
			p.Id = take()
		}
		if r := d.Panels[i].RowPanel; r != nil {
			r.Id = *take()
			for j := range r.Panels {
				r.Panels[j].Id = take()
			}
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
