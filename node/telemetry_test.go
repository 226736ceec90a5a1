package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// span is what the file of traces says of one.
type span struct {
	Name        string
	SpanContext struct{ TraceID, SpanID string }
	Parent      struct{ SpanID string }
}

func readSpans(t *testing.T, path string) (all []span) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range bytes.Lines(b) {
		var s span
		require.NoError(t, json.Unmarshal(line, &s))
		all = append(all, s)
	}
	return all
}

// TestTraces follows a call that brings a trace of its own through the node, by HTTP and by gRPC,
// to the file where spans go and to the examples of the histograms.
func TestTraces(t *testing.T) {
	c := testConfig(t.TempDir())
	file := filepath.Join(t.TempDir(), "spans.json")
	c.TraceEndpoint, c.TraceSample = "file:"+file, 0
	n := launch(t, c)

	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	call := func(method, path, body, traceparent string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.HTTPAddr()+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if traceparent != "" {
			req.Header.Set("traceparent", traceparent)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode, string(answer))
	}
	const event = `{"event_id":"b-%d","customer_id":"900","time":"2017-01-01T11:53:26Z","page_view":{"url":"/"}}`
	sampled := "00-" + trace + "-" + parent + "-01"
	call(http.MethodPost, "/v1/events", fmt.Sprintf(event, 1), sampled)
	call(http.MethodPost, "/v1/events", fmt.Sprintf(event, 2), "") // none in a hundred is sampled
	call(http.MethodPost, "/v1/events", fmt.Sprintf(event, 3), sampled[:53]+"00")
	_, err := n.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	call(http.MethodGet, "/v1/customers/900", "", sampled)
	call(http.MethodGet, "/healthz", "", sampled)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.HTTPAddr()+"/metrics", nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, name := range []string{"footfall_append_seconds", "footfall_apply_seconds", "footfall_query_seconds"} {
		found := false
		for line := range strings.Lines(string(metrics)) {
			found = found || strings.HasPrefix(line, name+"_bucket") && strings.Contains(line, `# {trace_id="`+trace+`"}`)
		}
		require.True(t, found, "no example of %s", name)
	}

	n.halt(t)
	spans := readSpans(t, file)
	names := map[string]string{parent: "the caller"}
	for _, s := range spans {
		require.Equal(t, trace, s.SpanContext.TraceID)
		names[s.SpanContext.SpanID] = s.Name
	}
	var tree []string
	for _, s := range spans {
		tree = append(tree, names[s.Parent.SpanID]+" > "+s.Name)
	}
	require.ElementsMatch(t, []string{
		"the caller > POST /v1/events", "POST /v1/events > append", "append > fold",
		"the caller > GET /v1/customers/…", "GET /v1/customers/… > query",
	}, tree)
}

// TestSeriesOfANode scrapes a node of 64 shards that each have customers.
func TestSeriesOfANode(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Shards = 64
	n := launch(t, c)
	var batch footfallv1.EventBatch
	for i := range 1000 {
		batch.Events = append(batch.Events, view(fmt.Sprint(i), fmt.Sprintf("v-%d", i), monday))
	}
	_, err := n.Publish(t.Context(), &batch)
	require.NoError(t, err)
	_, err = n.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
	require.NoError(t, err)
	_, err = n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "1"})
	require.NoError(t, err)

	resp, err := http.Get("http://" + n.HTTPAddr() + "/metrics") //nolint:noctx // a test
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	series, shards := 0, map[string]bool{}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		series++
		if _, rest, ok := strings.Cut(line, `footfall_shard_owned{shard="`); ok {
			shard, _, _ := strings.Cut(rest, `"`)
			shards[shard] = true
		}
	}
	require.Len(t, shards, c.Shards)
	// Models add at most 1,000: four of ten features in ten bins, and their histograms.
	require.LessOrEqual(t, series, 2000)
	t.Logf("%d series", series)
}
