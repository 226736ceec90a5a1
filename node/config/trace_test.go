package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTraceEndpoint(t *testing.T) {
	for text, want := range map[string][2]string{
		"http://collector:4318":         {"http", "collector:4318"},
		"https://c.example:443/otlp/":   {"https", "c.example:443/otlp"},
		"grpc://[::1]:4317":             {"grpc", "[::1]:4317"},
		"grpcs://collector:4317/":       {"grpcs", "collector:4317"},
		"file:./spans.json":             {"file", "./spans.json"},
		"file:///var/lib/spans/a.jsonl": {"file", "/var/lib/spans/a.jsonl"},
	} {
		scheme, rest, err := ParseTraceEndpoint(text)
		require.NoError(t, err, text)
		require.Equal(t, want, [2]string{scheme, rest})
	}
	for _, bad := range []string{"", "collector:4317", "file:", "file://", "http://", "http://collector", "http://u:secret@c:1", "grpc://c:1/path", "http://c:1?x=1", "ftp://c:1"} {
		_, _, err := ParseTraceEndpoint(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestTraceSample(t *testing.T) {
	var share float64
	v := &sampleValue{&share}
	for text, want := range map[string]string{"0": "0%", "1": "100%", "0.01": "1%", "2.5%": "2.5%", "100%": "100%"} {
		require.NoError(t, v.Set(text), text)
		require.Equal(t, want, v.String())
	}
	for _, bad := range []string{"", "2", "-1", "101%", "NaN", "all"} {
		require.Error(t, v.Set(bad), bad)
	}
	require.Equal(t, .01, Default().TraceSample)
}
