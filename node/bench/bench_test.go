package bench

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQuickRun runs every benchmark small: figures come out, and the peer stream's check is right.
func TestQuickRun(t *testing.T) {
	if os.Getenv("FOOTFALL_HEAVY") != "1" {
		t.Skip("it takes a minute of both cores: FOOTFALL_HEAVY=1 runs it")
	}
	s := &Suite{Dir: t.TempDir(), Quick: true, Progress: func(text string) { t.Log(text) }}
	require.ErrorContains(t, s.Run(t.Context(), "nothing"), "choose from decode")
	require.NoError(t, s.Run(t.Context()))
	for _, r := range s.Rows {
		require.Positive(t, r.Value, r.Name)
		t.Logf("%-12s %-70s %12.4g %-10s %.2f %s", r.Group, r.Name, r.Value, r.Unit, r.Ratio, r.Target)
	}
	require.NoError(t, s.WriteJSON(filepath.Join(t.TempDir(), "b", "results.json"), time.Now()))
}
