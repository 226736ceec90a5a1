package grafana

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// The palette of Okabe and Ito, but for black: told apart whatever one's colour vision is.
const (
	blue      = "#0072B2"
	orange    = "#E69F00"
	vermilion = "#D55E00"
	sky       = "#56B4E9"
	green     = "#009E73"
	yellow    = "#F0E442"
	purple    = "#CC79A7"
	grey      = "#8E8E8E"
)

// What thresholds turn to.
const (
	well  = blue
	watch = orange
	wrong = vermilion
)

// palette is in the order in which the queries of a panel get their colours.
var palette = []string{blue, orange, green, purple, sky, vermilion, yellow, grey}

// Units, as Grafana names them.
const (
	unitShort   = "short"
	unitSeconds = "s"
	unitBytes   = "bytes"
	unitShare   = "percentunit"
	unitEvents  = "eps"
	unitRows    = "rowsps"
	unitCalls   = "reqps"
	unitMessage = "mps"
	unitHourly  = "suffix: per hour"
	unitCores   = "suffix: cores"
)

// step is where a value begins to be something else than it was.
type step struct {
	from  float64
	color string
}

// thresholds are colours by value: first from the beginning, then each step's from where it begins.
func thresholds(first string, steps ...step) *dashboard.ThresholdsConfig {
	c := &dashboard.ThresholdsConfig{Mode: dashboard.ThresholdsModeAbsolute, Steps: []dashboard.Threshold{{Color: first}}}
	for _, s := range steps {
		c.Steps = append(c.Steps, dashboard.Threshold{Value: new(s.from), Color: s.color})
	}
	return c
}

// states are words for values, each with a colour.
type state struct{ value, word, color string }

func mappings(states []state) []dashboard.ValueMapping {
	m := &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{}}
	for i, s := range states {
		m.Options[s.value] = dashboard.ValueMappingResult{Text: new(s.word), Color: new(s.color), Index: new(int32(i))}
	}
	return []dashboard.ValueMapping{{ValueMap: m}}
}

// upOrOut is of gauges that are 1 where something works.
func upOrOut(up, out string) []state { return []state{{"1", up, well}, {"0", out, wrong}} }

func fixed(color string) dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: "color", Value: map[string]any{"mode": "fixed", "fixedColor": color}}
}
