package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/actors"
	"footfall/messages/footfallv1"
)

// telemetry measures ingest with metrics, heat, hot customers and a tracer, and without any of
// them, in turns; and what a scrape of 64 shards takes.
func (s *Suite) telemetry(ctx context.Context) error {
	customers, n := s.size(50_000), s.size(600_000)
	msgs, err := batched(newMaker(customers, n, 365), n)
	if err != nil {
		return err
	}
	turns := 15
	if s.Quick {
		turns = 1
	}
	var on, off, ratios []float64
	for turn := range turns {
		s.say("  telemetry: turn %d of %d", turn+1, turns)
		var perCore [2]float64 // without, with
		for i := range perCore {
			with := (turn + i) % 2 // who is first changes: what a run leaves behind is the next one's
			if perCore[with], err = s.observed(ctx, msgs, n, with == 1); err != nil {
				return err
			}
		}
		off, on = append(off, perCore[0]), append(on, perCore[1])
		ratios = append(ratios, perCore[1]/perCore[0])
	}
	slices.Sort(ratios)
	s.add(Row{
		Group: "telemetry", Name: "ingest with metrics, heat, hot customers and a tracer, per core", Value: middle(on), Unit: "events/s",
		Limit: middle(off), Against: fmt.Sprintf("the same without, in %d turns, half of which gave %.2f to %.2f", turns, ratios[turns/4], ratios[turns*3/4]),
	}.ratioAtLeast(.97))
	return s.scrape(ctx)
}

// observed takes messages in and returns how many events that were by the second of a core.
func (s *Suite) observed(ctx context.Context, msgs []shardMessage, n int, with bool) (perCore float64, err error) {
	dir, remove, err := s.dir("telemetry")
	if err != nil {
		return 0, err
	}
	defer remove()
	cfg := s.hostConfig()
	if with {
		if cfg.Metrics, err = actors.NewMetrics(prometheus.NewRegistry()); err != nil {
			return 0, err
		}
		cfg.Tracer = sdktrace.NewTracerProvider().Tracer("bench")
	}
	r, err := s.openWith(ctx, dir, cfg, nil)
	if err != nil {
		return 0, err
	}
	runtime.GC()
	u := measure()
	err = publish(ctx, r.storage.Log, slices.Values(msgs))
	if err == nil {
		err = r.host.WaitIdle(ctx, false)
	}
	_, cpu := u.since()
	return perSecond(n, cpu), errors.Join(err, r.close(ctx))
}

// scrape measures what Prometheus costs a node.
func (s *Suite) scrape(ctx context.Context) (err error) {
	n, end, err := s.serve(ctx, "scrape")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	load := &load{client: footfallv1.NewIngestServiceClient(conn), customers: s.size(10_000)}
	if err := load.make(s.size(20_000)); err != nil {
		return err
	}
	if err := awaitReady(ctx, conn); err != nil {
		return err
	}
	if err := load.once(ctx); err != nil {
		return err
	}
	var (
		all  []float64
		body []byte
	)
	for range 50 {
		began := time.Now()
		if body, err = get(ctx, "http://"+n.HTTPAddr()+"/metrics"); err != nil {
			return err
		}
		all = append(all, time.Since(began).Seconds()*1e3)
	}
	series := 0
	for line := range bytes.Lines(body) {
		if line[0] != '#' {
			series++
		}
	}
	s.add(Row{Group: "telemetry", Name: "a scrape of a node with 64 shards, p50 of 50", Value: middle(all), Unit: "ms"}.atMost(20, "20 ms"))
	s.add(Row{Group: "telemetry", Name: "its series, without models", Value: float64(series), Unit: "series"}.atMost(3000, "3,000"))
	return nil
}

func get(ctx context.Context, url string) (body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
