package chaos

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// visualize draws what the checker made of a customer, where somebody wants to see it.
func visualize(t *testing.T, customer string, info porcupine.LinearizationInfo) string {
	t.Helper()
	dir := os.Getenv("FOOTFALL_CHAOS_LOGS")
	if dir == "" {
		return "FOOTFALL_CHAOS_LOGS names a folder for a picture"
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, customer+".html")
	require.NoError(t, porcupine.VisualizePath(model, info, path))
	return path
}

// String lists what happened, in order.
func (p *past) String() string {
	type line struct {
		at   int64
		text string
	}
	var lines []line
	for i, w := range p.writes {
		if p.begun&(1<<i) != 0 {
			lines = append(lines, line{w.called, fmt.Sprintf("write %d by %d, confirmed at %.3f", i, w.client, float64(w.confirmedAt)/1e9)})
		}
	}
	last := set(0)
	slices.SortFunc(p.reads, func(a, b read) int { return int(a.returned - b.returned) })
	for i, r := range p.reads {
		if i > 0 && i+1 < len(p.reads) && r.seen == last && p.reads[i+1].seen == last {
			continue // the same before and after
		}
		note := ""
		if lost := last &^ r.seen; lost != 0 {
			note = fmt.Sprintf(", %d fewer than the answer before", bits.OnesCount64(uint64(lost)))
		}
		last = r.seen
		lines = append(lines, line{r.returned, fmt.Sprintf("read %030b, asked at %.3f by %d%s", r.seen, float64(r.called)/1e9, r.client, note)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%9.3f %s\n", float64(l.at)/1e9, l.text)
	}
	return b.String()
}
