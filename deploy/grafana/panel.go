package grafana

import (
	"fmt"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/barchart"
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// panel is what a panel says, without what all of its kind have in common. Its methods return it, changed.
type panel struct {
	kind               kind
	title, about, unit string
	queries            []query
	width, height      uint32

	min, max   *float64
	decimals   *float64
	thresholds *dashboard.ThresholdsConfig
	states     []state
	stack      common.StackingMode
	bars       bool
	lineAt     bool
	colors     map[string]string
	runbooks   []string
	fieldLinks []dashboard.DashboardLink
	transforms []dashboard.DataTransformerConfig
	overrides  []dashboard.DashboardFieldConfigSourceOverrides
	xField     string
}

// kind is how a panel shows its data.
type kind int

const (
	lines kind = iota
	number
	ranking
	words
	grid
	density
	columns
)

// query is a PromQL expression, and what its series are called: as Grafana has it, {{shard}} is the label.
type query struct{ expr, legend string }

func q(expr, legend string) query { return query{expr, legend} }

// Panels of each kind. about is for who looks at it for the first time: what it shows, and what is normal.

// series are lines over time.
func series(title, about, unit string, queries ...query) *panel {
	return &panel{kind: lines, title: title, about: about, unit: unit, queries: queries, width: 8, height: 8, min: new(0.0)}
}

// figure is one number, the last, with its course behind it.
func figure(title, about, unit string, queries ...query) *panel {
	return &panel{kind: number, title: title, about: about, unit: unit, queries: queries, width: 3, height: 4, thresholds: thresholds(well)}
}

// ranks are bars of the last values, one for each series.
func ranks(title, about, unit string, queries ...query) *panel {
	return &panel{kind: ranking, title: title, about: about, unit: unit, queries: queries, width: 8, height: 8, min: new(0.0), thresholds: thresholds(well)}
}

// timeline shows states as words over time.
func timeline(title, about string, states []state, queries ...query) *panel {
	return &panel{kind: words, title: title, about: about, unit: "none", states: states, queries: queries, width: 8, height: 8}
}

// rows is a table of the last values; transforms make its columns.
func rows(title, about, unit string, queries ...query) *panel {
	return &panel{kind: grid, title: title, about: about, unit: unit, queries: queries, width: 24, height: 10, thresholds: thresholds(well)}
}

// spread shows how values are spread over time: those of a histogram, by {{le}}, or those that are counted by any other label.
func spread(title, about, unit string, of query) *panel {
	return &panel{kind: density, title: title, about: about, unit: unit, queries: []query{of}, width: 8, height: 8}
}

// bins compares series by the values of a label, side by side.
func bins(title, about, unit, label string, queries ...query) *panel {
	return &panel{kind: columns, title: title, about: about, unit: unit, xField: label, queries: queries, width: 12, height: 8}
}

// wide and tall set the size, of 24 columns, and lines of 30 pixels.
func (p *panel) wide(w uint32) *panel { p.width = w; return p }
func (p *panel) tall(h uint32) *panel { p.height = h; return p }

// limits are from where on it is to be watched, and wrong.
func (p *panel) limits(watchFrom, wrongFrom float64) *panel {
	p.thresholds = thresholds(well, step{watchFrom, watch}, step{wrongFrom, wrong})
	p.lineAt = true
	return p
}

// atLeast is of what is wrong where it is less.
func (p *panel) atLeast(from float64) *panel {
	p.thresholds = thresholds(wrong, step{from, well})
	return p
}

// anyIsWrong is of what should not be at all.
func (p *panel) anyIsWrong() *panel {
	p.thresholds = thresholds(well, step{1e-9, wrong})
	return p
}

// anyIsOdd is of what may be, and is to be looked at.
func (p *panel) anyIsOdd() *panel {
	p.thresholds = thresholds(well, step{1e-9, watch})
	return p
}

func (p *panel) upTo(limit float64) *panel { p.max = new(limit); return p }
func (p *panel) digits(n float64) *panel   { p.decimals = new(n); return p }

// stacked adds series up; shares makes hundred percent of them.
func (p *panel) stacked() *panel { p.stack = common.StackingModeNormal; return p }
func (p *panel) shares() *panel  { p.stack = common.StackingModePercent; return p }

// asBars is for counts of what is rare.
func (p *panel) asBars() *panel { p.bars = true; return p }

// colored gives series their colours by name, where their names are known.
func (p *panel) colored(byName map[string]string) *panel { p.colors = byName; return p }

// runbook links to the pages of alerts.
func (p *panel) runbook(alerts ...string) *panel {
	p.runbooks = append(p.runbooks, alerts...)
	return p
}

// opens has a value of the panel lead to a page.
func (p *panel) opens(title, url string) *panel {
	p.fieldLinks = append(p.fieldLinks, link(title, url))
	return p
}

func link(title, url string) dashboard.DashboardLink {
	return dashboard.DashboardLink{Title: title, Type: dashboard.DashboardLinkTypeLink, Url: new(url), TargetBlank: true, Tags: []string{}}
}

// column says how a column of a table is called and what its unit is; "" leaves that.
func (p *panel) column(name, shown, unit string) *panel {
	o := dashboard.DashboardFieldConfigSourceOverrides{Matcher: dashboard.MatcherConfig{Id: "byName", Options: name}}
	if shown != "" {
		o.Properties = append(o.Properties, dashboard.DynamicConfigValue{Id: "displayName", Value: shown})
	}
	if unit != "" {
		o.Properties = append(o.Properties, dashboard.DynamicConfigValue{Id: "unit", Value: unit})
	}
	p.overrides = append(p.overrides, o)
	return p
}

// transform adds a transformation of Grafana's.
func (p *panel) transform(id string, options map[string]any) *panel {
	p.transforms = append(p.transforms, dashboard.DataTransformerConfig{Id: id, Options: options})
	return p
}

// without hides columns of a table.
func (p *panel) without(names ...string) *panel {
	hidden := map[string]any{}
	for _, n := range names {
		hidden[n] = true
	}
	return p.transform("organize", map[string]any{"excludeByName": hidden, "indexByName": map[string]any{}, "renameByName": map[string]any{}})
}

// Build implements cog.Builder.
func (p *panel) Build() (dashboard.Panel, error) {
	out, err := p.shape()
	if err != nil {
		return out, fmt.Errorf("panel %q: %w", p.title, err)
	}
	out.Title, out.Description = new(p.title), new(p.description())
	out.Datasource = new(source())
	out.GridPos = &dashboard.GridPos{W: p.width, H: p.height}
	out.Transformations = p.transforms
	for _, alert := range p.runbooks {
		out.Links = append(out.Links, link("Runbook: "+alert, "${runbooks}/"+alert+".md"))
	}
	if out.Targets, err = p.targets(); err != nil {
		return out, err
	}
	if out.FieldConfig == nil {
		out.FieldConfig = dashboard.NewFieldConfigSource()
	}
	d := &out.FieldConfig.Defaults
	d.Unit, d.Min, d.Max, d.Decimals = new(p.unit), p.min, p.max, p.decimals
	d.Thresholds, d.Links = p.thresholds, p.fieldLinks
	if p.states != nil {
		d.Mappings = mappings(p.states)
	}
	d.Color = &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdThresholds}
	if p.kind == lines || p.kind == columns {
		d.Color.Mode = dashboard.FieldColorModeIdPaletteClassicByName
	}
	out.FieldConfig.Overrides = append(p.coloring(), p.overrides...)
	return out, nil
}

// description is about, and where more is told: a link alone is not seen in print.
func (p *panel) description() string {
	if len(p.runbooks) == 0 {
		return p.about
	}
	return p.about + "\n\nAlerts: " + strings.Join(p.runbooks, ", ") + "."
}

// coloring are the colours of known series. The queries of a panel get one each, where each is one series.
func (p *panel) coloring() (all []dashboard.DashboardFieldConfigSourceOverrides) {
	all = []dashboard.DashboardFieldConfigSourceOverrides{}
	if p.kind != lines && p.kind != columns {
		return all
	}
	for _, name := range sortedKeys(p.colors) {
		all = append(all, dashboard.DashboardFieldConfigSourceOverrides{
			Matcher: dashboard.MatcherConfig{Id: "byName", Options: name}, Properties: []dashboard.DynamicConfigValue{fixed(p.colors[name])},
		})
	}
	for i, q := range p.queries {
		if p.colors == nil && !strings.Contains(q.legend, "{{") && i < len(palette) {
			all = append(all, dashboard.DashboardFieldConfigSourceOverrides{
				Matcher: dashboard.MatcherConfig{Id: "byFrameRefID", Options: refID(i)}, Properties: []dashboard.DynamicConfigValue{fixed(palette[i])},
			})
		}
	}
	return all
}

func refID(i int) string { return string(rune('A' + i)) }

func (p *panel) targets() (all []variants.Dataquery, err error) {
	for i, q := range p.queries {
		b := prometheus.NewDataqueryBuilder().Expr(q.expr).LegendFormat(q.legend).RefId(refID(i)).Datasource(source())
		switch p.kind {
		case grid, columns:
			b = b.Instant().Format(prometheus.PromQueryFormatTable)
		case ranking:
			b = b.Instant().Format(prometheus.PromQueryFormatTimeSeries)
		case density:
			b = b.Range().Format(prometheus.PromQueryFormatHeatmap)
			if q.legend != "{{le}}" { // its counts are not those of all that is less
				b = b.Format(prometheus.PromQueryFormatTimeSeries)
			}
		default:
			b = b.Range().Format(prometheus.PromQueryFormatTimeSeries)
		}
		t, err := b.Build()
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// shape is what all panels of a kind have in common.
func (p *panel) shape() (dashboard.Panel, error) {
	last := common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})
	tooltip := common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)
	legend := common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)
	var b cog.Builder[dashboard.Panel]
	switch p.kind {
	case number:
		b = stat.NewPanelBuilder().ReduceOptions(last).GraphMode(common.BigValueGraphModeArea).ColorMode(common.BigValueColorModeValue).
			JustifyMode(common.BigValueJustifyModeAuto).TextMode(common.BigValueTextModeValue)
	case ranking:
		b = bargauge.NewPanelBuilder().ReduceOptions(last).Orientation(common.VizOrientationHorizontal).DisplayMode(common.BarGaugeDisplayModeBasic).
			ValueMode(common.BarGaugeValueModeText).NamePlacement(common.BarGaugeNamePlacementLeft).ShowUnfilled(true)
	case words:
		b = statetimeline.NewPanelBuilder().ShowValue(common.VisibilityModeAuto).MergeValues(true).RowHeight(0.8).FillOpacity(80).
			Legend(legend.ShowLegend(false)).Tooltip(tooltip)
	case grid:
		b = table.NewPanelBuilder().ShowHeader(true).Filterable(true).CellHeight(common.TableCellHeightSm).
			Footer(common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{}))
	case density:
		b = heatmap.NewPanelBuilder().Calculate(false).CellGap(1).ShowLegend().ExemplarsColor(orange).
			Color(heatmap.NewHeatmapColorOptionsBuilder().Mode(heatmap.HeatmapColorModeScheme).Scheme("Cividis").Steps(64)).
			YAxis(heatmap.NewYAxisConfigBuilder().Unit(p.unit)).
			Tooltip(heatmap.NewHeatmapTooltipBuilder().Mode(common.TooltipDisplayModeSingle).YHistogram(true))
	case columns:
		b = barchart.NewPanelBuilder().XField(p.xField).ShowValue(common.VisibilityModeNever).GroupWidth(0.8).FillOpacity(80).Legend(legend).Tooltip(tooltip)
	default:
		b = p.lineShape(tooltip, legend)
	}
	return b.Build()
}

func (p *panel) lineShape(tooltip *common.VizTooltipOptionsBuilder, legend *common.VizLegendOptionsBuilder) cog.Builder[dashboard.Panel] {
	b := timeseries.NewPanelBuilder().LineWidth(1).FillOpacity(8).ShowPoints(common.VisibilityModeNever).
		LineInterpolation(common.LineInterpolationLinear).Tooltip(tooltip).Legend(legend)
	switch {
	case p.bars:
		b = b.DrawStyle(common.GraphDrawStyleBars).FillOpacity(80)
	case p.stack != "":
		b = b.FillOpacity(50)
	}
	if p.stack != "" {
		b = b.Stacking(common.NewStackingConfigBuilder().Mode(p.stack).Group("A"))
	} else if p.bars {
		b = b.Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A"))
	}
	if p.lineAt {
		b = b.ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
	}
	return b
}
