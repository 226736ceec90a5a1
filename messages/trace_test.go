package messages

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

const someTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestTraceParent(t *testing.T) {
	sc, ok := ParseTraceParent(someTrace)
	require.True(t, ok)
	require.True(t, sc.IsSampled())
	require.True(t, sc.IsRemote())
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", sc.TraceID().String())
	require.Equal(t, someTrace, TraceParent(sc))
	require.Empty(t, TraceParent(trace.SpanContext{}))

	later, ok := ParseTraceParent("01" + someTrace[2:] + "-more")
	require.True(t, ok)
	require.Equal(t, sc, later)

	for _, bad := range []string{
		"", "00", someTrace[1:], someTrace + "-more", "ff" + someTrace[2:], strings.ToUpper(someTrace), strings.ReplaceAll(someTrace, "-", "_"),
		"00-" + strings.Repeat("0", 32) + someTrace[35:], someTrace[:36] + strings.Repeat("0", 16) + "-01", "0x" + someTrace[2:],
	} {
		_, ok := ParseTraceParent(bad)
		require.False(t, ok, bad)
	}
}
