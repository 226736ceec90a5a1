package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"google.golang.org/protobuf/proto"

	"footfall/node/api"
)

// printJSON prints v, indented.
func (a *app) printJSON(v any) error {
	if m, ok := v.(proto.Message); ok {
		raw, err := plain(m)
		if err != nil {
			return err
		}
		v = raw
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// plain is a message as the HTTP API writes it.
func plain(m proto.Message) (json.RawMessage, error) { return api.Marshaler{}.Marshal(m) }

// newTable starts a table in the one style of all commands. Columns that are named with a
// leading ">" are aligned to the right.
func newTable(columns ...string) table.Writer {
	t := table.NewWriter()
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true, SeparateFooter: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format = table.FormatOptions{Header: text.FormatDefault, Footer: text.FormatDefault, Row: text.FormatDefault}
	style.Color.Header = text.Colors{text.Bold}
	style.Color.Footer = text.Colors{text.Bold}
	t.SetStyle(style)
	header := make(table.Row, len(columns))
	configs := make([]table.ColumnConfig, 0, len(columns))
	for i, name := range columns {
		name, right := strings.CutPrefix(name, ">")
		header[i] = name
		if right {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
		}
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	t.SuppressTrailingSpaces()
	return t
}

func (a *app) printTable(t table.Writer) error {
	_, err := fmt.Fprintln(a.out, t.Render())
	return err
}

// count writes a whole number with its thousands apart.
func count[T ~int | ~int64 | ~uint64 | ~uint32](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// size writes a number of bytes.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/1024, []string{"KiB", "MiB", "GiB", "TiB"}
	for len(units) > 1 && v >= 1024 {
		v, units = v/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %s", v, units[0])
}

// bar draws a share of 0 to 1 as a bar of the given width.
func bar(share float64, width int) string {
	if math.IsNaN(share) {
		share = 0
	}
	eighths := int(math.Round(min(max(share, 0), 1) * float64(width) * 8))
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune(" ▏▎▍▌▋▊▉")[rest])
	}
	return s + strings.Repeat(" ", width-text.StringWidthWithoutEscSequences(s))
}

// spark draws values as a row of small bars, the highest one full.
func spark(values []float64) string {
	high := 0.
	for _, v := range values {
		high = max(high, v)
	}
	var s strings.Builder
	for _, v := range values {
		if v <= 0 || high == 0 {
			s.WriteRune('·')
			continue
		}
		s.WriteRune([]rune("▁▂▃▄▅▆▇█")[min(int(v/high*8), 7)])
	}
	return s.String()
}

// ago writes a duration in its largest fitting unit.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + ago(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f d", d.Hours()/24)
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
