package actors

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// samples gathers all series as name{label="value",…}.
func samples(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.GetHistogram() != nil:
				out[name] = float64(m.GetHistogram().GetSampleCount())
			case m.GetCounter() != nil:
				out[name] = m.GetCounter().GetValue()
			default:
				out[name] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// shardsIn are the shards that series name.
func shardsIn(series map[string]float64) []int {
	found := map[int]bool{}
	for name := range series {
		if _, rest, ok := strings.Cut(name, `shard="`); ok {
			number, _, _ := strings.Cut(rest, `"`)
			if n, err := strconv.Atoi(number); err == nil {
				found[n] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func sale(customer, id string, at time.Time, lines ...*footfallv1.Line) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(at),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{BasketId: id, Lines: lines}},
	}
}

func line(department, amount string) *footfallv1.Line {
	return &footfallv1.Line{ProductId: "p", Department: department, Quantity: 1, Amount: amount}
}

func TestFiguresOfTheBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		b := newBench(t, &echoScorer{})
		var err error
		b.cfg.Metrics, err = NewMetrics(reg)
		require.NoError(t, err)
		b.cfg.Meaning = func(model, _ string) Meaning {
			if model == "churn_risk" {
				return Meaning{Segments: map[int]string{1: "loyal", 2: "new"}}
			}
			return Meaning{}
		}
		b.start()
		defer b.stop()

		b.publish(
			sale("900", "b-1", day1, line("GROCERY", "2.50"), line("PASTRY", "0.50"), line("GROCERY", "1.00"), line("", "9.00")),
			sale("901", "b-2", day1, line("", "0.25")),
			&footfallv1.Event{EventId: "v", CustomerId: "901", Time: timestamppb.New(day1), Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{}}},
		)
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		_, err = b.host.Tick(t.Context(), "2017-01-31")
		require.NoError(t, err)
		b.publish(
			sale("900", "b-1", day1, line("GROCERY", "2.50")),                         // a duplicate
			sale("902", "b-3", day1.AddDate(0, 0, 30), line("GROCERY", "1.00")),       // of the day that ended last
			sale("902", "b-4", day1.AddDate(0, 0, 29), line("PASTRY", "1.00")),        // two days
			sale("902", "b-5", day1.AddDate(0, 0, 1), line("PASTRY", "1.00")),         // 30 days
			sale("902", "b-6", day1.AddDate(0, 0, 31), line("FLORAL", "100000.0001")), // in time
		)
		require.NoError(t, b.host.WaitIdle(t.Context(), true))
		_, err = b.host.Ask(t.Context(), "900")
		require.NoError(t, err)
		<-time.After(2 * censusEvery)
		synctest.Wait()

		got := samples(t, reg)
		for name, want := range map[string]float64{
			`footfall_events_applied_total{kind="purchase"}`:            6,
			`footfall_events_applied_total{kind="page_view"}`:           1,
			`footfall_events_applied_total{kind="erase"}`:               0,
			`footfall_late_events_total{days="1"}`:                      1,
			`footfall_late_events_total{days="2-7"}`:                    1,
			`footfall_late_events_total{days="8-28"}`:                   0,
			`footfall_late_events_total{days="29-"}`:                    1,
			`footfall_sales_total{department="GROCERY"}`:                4.5,
			`footfall_sales_total{department="PASTRY"}`:                 2.5,
			`footfall_sales_total{department="FLORAL"}`:                 100000.0001,
			`footfall_sales_total{department="none"}`:                   9.25,
			`footfall_sales_total{department="other"}`:                  0,
			`footfall_recency_customers{days="1"}`:                      1,
			`footfall_recency_customers{days="29-84"}`:                  2,
			`footfall_events_newest_timestamp_seconds{kind="purchase"}`: float64(day1.AddDate(0, 0, 31).Unix()),
		} {
			require.Contains(t, got, name)
			require.InDelta(t, want, got[name], 1e-9, name)
		}
		require.NotContains(t, got, `footfall_events_last_applied_timestamp_seconds{kind="erase"}`)
		shard := messages.ShardOf("900", b.cfg.Shards)
		require.EqualValues(t, 1, got[fmt.Sprintf(`footfall_shard_queries_total{shard="%d"}`, shard)])
		require.Positive(t, got[fmt.Sprintf(`footfall_shard_bytes_total{shard="%d"}`, shard)])
		segments := got[`footfall_segment_customers{segment="loyal"}`] + got[`footfall_segment_customers{segment="new"}`]
		require.LessOrEqual(t, segments, 3.)
	})
}

// Departments with labels of their own are as many as there may be, whatever names come, and no
// counter falls.
func TestDepartmentsAreBounded(t *testing.T) {
	b := &business{}
	sold := map[string]float64{}
	collect := func() (sum float64, series int) {
		ch := make(chan prometheus.Metric, 1000)
		b.collect(ch)
		close(ch)
		reg := prometheus.NewRegistry()
		require.NoError(t, reg.Register(fixed(ch)))
		now := map[string]float64{}
		for name, v := range samples(t, reg) {
			if strings.HasPrefix(name, "footfall_sales_total") {
				now[name] = v
				sum += v
			}
		}
		for name, v := range sold {
			require.GreaterOrEqual(t, now[name], v, name)
		}
		sold = now
		return sum, len(now)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	total := 0.
	for round := range 20 {
		n := &notes{fresh: true}
		for range 200 {
			name := fmt.Sprintf("DEPARTMENT %d", rnd.IntN(2+round*40))
			ev := sale("1", "b", day1, line(name, "1"))
			var flat behavior.Event
			require.NoError(t, behavior.Flatten(ev, &flat))
			n.sales.add(&flat)
			total++
		}
		n.handOver(func(n *notes) { b.take(n, day1) })
		sum, series := collect()
		require.InDelta(t, total, sum, 1e-6)
		require.LessOrEqual(t, series, mostDepartments+2)
	}
	_, series := collect()
	require.Equal(t, mostDepartments+2, series)
}

// fixed is a collector of what was collected.
type fixed chan prometheus.Metric

func (fixed) Describe(chan<- *prometheus.Desc) {}
func (f fixed) Collect(out chan<- prometheus.Metric) {
	for m := range f {
		out <- m
	}
}

// TestSeriesGoWithTheirShards moves all shards to and fro between two hosts: each shows what it
// has, and nothing of what it had.
func TestSeriesGoWithTheirShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shards, customers, moves = 64, 10_000, 5
		log, store := newMemLog(), newMemStore()
		var (
			hosts [2]*Host
			regs  [2]*prometheus.Registry
		)
		for i := range hosts {
			regs[i] = prometheus.NewRegistry()
			m, err := NewMetrics(regs[i])
			require.NoError(t, err)
			b := newBench(t, nil)
			b.cfg.Shards, b.cfg.Metrics, b.cfg.Node = shards, m, fmt.Sprintf("n%d", i)
			hosts[i], err = NewHost(b.cfg, log, store, nil)
			require.NoError(t, err)
			hosts[i].Begin()
			defer func() { require.NoError(t, hosts[i].Stop(context.WithoutCancel(t.Context()))) }()
		}
		b := newBench(t, nil)
		b.cfg.Shards, b.host = shards, hosts[0]
		nobody := func(Change) {}
		owner := 0
		for s := range shards {
			hosts[owner].Open(s, nobody)
		}
		synctest.Wait()
		for move := range moves {
			for i := range customers {
				if i%moves == move {
					b.publish(purchase(strconv.Itoa(i), fmt.Sprintf("b-%d", i), day1, "1.00"))
				}
			}
			synctest.Wait()
			<-time.After(2 * censusEvery)
			synctest.Wait()
			had := samples(t, regs[owner])
			require.Len(t, shardsIn(had), shards)
			require.LessOrEqual(t, len(had), 20*shards)
			require.Empty(t, shardsIn(samples(t, regs[1-owner])))

			for s := range shards {
				epoch := hosts[owner].Status()[s].Epoch
				hosts[owner].Close(s, epoch, nobody)
				synctest.Wait()
				hosts[1-owner].Open(s, nobody)
			}
			synctest.Wait()
			left := samples(t, regs[owner])
			require.Empty(t, shardsIn(left), "series of released shards")
			for name, v := range left {
				if strings.Contains(name, "customers{") {
					require.Zero(t, v, "%s counts customers that are not here any more", name)
				}
			}
			owner = 1 - owner
		}
		var all uint64
		for _, st := range hosts[owner].Status() {
			all += st.Customers
		}
		require.EqualValues(t, customers, all)
		// What both have counted is every event once: nothing was folded twice in order.
		applied := samples(t, regs[0])[`footfall_events_applied_total{kind="purchase"}`] + samples(t, regs[1])[`footfall_events_applied_total{kind="purchase"}`]
		require.EqualValues(t, customers, applied)
	})
}

// What is counted is what a process did, not what a shard has seen in its life.
func TestCountersOfAShardNeverFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.cfg.Shards = 1
		process := func() *prometheus.Registry {
			reg := prometheus.NewRegistry()
			var err error
			b.cfg.Metrics, err = NewMetrics(reg)
			require.NoError(t, err)
			b.start()
			return reg
		}
		events := func(reg *prometheus.Registry) (shown float64, own uint64) {
			t.Helper()
			require.NoError(t, b.host.WaitIdle(t.Context(), false))
			return samples(t, reg)[`footfall_shard_events_total{shard="0"}`], b.host.Status()[0].Events
		}
		check := func(reg *prometheus.Registry, shown float64, own uint64) {
			t.Helper()
			gotShown, gotOwn := events(reg)
			require.Equal(t, shown, gotShown)
			require.Equal(t, own, gotOwn)
		}
		first := process()
		b.publish(purchase("900", "b-1", day1, "10.00"))
		check(first, 1, 1)
		require.NoError(t, b.host.Checkpoint(t.Context()))
		b.publish(purchase("900", "b-2", day1, "10.00"))
		check(first, 2, 2)

		// The second is in no checkpoint: the shard forgets it and folds it again, and its own sum falls meanwhile.
		done := make(chan struct{})
		b.host.shards[0].send(&visit{func([]byte, behavior.Record) { panic("a bug") }, done})
		<-done
		require.Equal(t, 2.0, samples(t, first)[`footfall_shard_events_total{shard="0"}`])
		<-time.After(2 * retryAfter)
		check(first, 3, 2)
		b.crash()

		second := process()
		shown, own := events(second)
		require.LessOrEqual(t, shown, 1.0, "what the checkpoint has is none of this process's")
		require.EqualValues(t, 2, own)
		b.publish(purchase("900", "b-3", day1, "10.00"))
		check(second, shown+1, 3)
		b.stop()
		require.NotContains(t, samples(t, second), `footfall_shard_events_total{shard="0"}`)
	})
}

func TestHotCustomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		var err error
		b.cfg.Metrics, err = NewMetrics(prometheus.NewRegistry())
		require.NoError(t, err)
		b.start()
		defer b.stop()
		shard := messages.ShardOf("900", b.cfg.Shards)
		for i := range 4000 {
			b.publish(purchase("900", fmt.Sprintf("b-%d", i), day1, "1.00"))
		}
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		<-time.After(10 * time.Second)
		hot, err := b.host.Hot(t.Context(), shard, 10)
		require.NoError(t, err)
		require.Equal(t, []string{"900"}, names(hot.Customers))
		require.InDelta(t, 4000, hot.Customers[0].Events, 400) // one in eight is counted
		require.InDelta(t, 10, hot.Window.Seconds(), 1)

		// Half as much a minute later; of a customer that is erased nothing is told.
		<-time.After(halveEvery)
		later, err := b.host.Hot(t.Context(), shard, 10)
		require.NoError(t, err)
		require.InDelta(t, float64(hot.Customers[0].Events)/2, later.Customers[0].Events, hotSample)
		require.InDelta(t, 40, later.Window.Seconds(), 2)
		b.publish(&footfallv1.Event{EventId: "e", CustomerId: "900", Time: timestamppb.New(day1), Kind: &footfallv1.Event_Erase{Erase: &footfallv1.Erase{}}})
		require.NoError(t, b.host.WaitIdle(t.Context(), false))
		hot, err = b.host.Hot(t.Context(), shard, 10)
		require.NoError(t, err)
		require.Empty(t, hot.Customers)
	})
}

// TestTrace follows an event from its call to its scores, through a log that carries traces and
// one that does not.
func TestTrace(t *testing.T) {
	for _, carries := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			b := newBench(t, &echoScorer{})
			b.log.forgetTraces = !carries
			b.cfg.Tracer = tracers.Tracer("test")
			reg := prometheus.NewRegistry()
			var err error
			b.cfg.Metrics, err = NewMetrics(reg)
			require.NoError(t, err)
			b.start()
			defer b.stop()

			ctx, call := b.cfg.Tracer.Start(t.Context(), "call")
			shard := messages.ShardOf("900", b.cfg.Shards)
			require.NoError(t, b.host.Append(ctx, shard, []*footfallv1.Event{purchase("900", "b-1", day1, "1.00")}))
			call.End()
			// What nobody traces has no spans.
			b.publish(purchase("900", "b-2", day1, "1.00"))
			require.NoError(t, b.host.WaitIdle(t.Context(), true))
			_, err = b.host.Ask(ctx, "900")
			require.NoError(t, err)

			byName := map[string]sdktrace.ReadOnlySpan{}
			for _, s := range spans.Ended() {
				require.NotContains(t, byName, s.Name())
				require.Equal(t, call.SpanContext().TraceID(), s.SpanContext().TraceID())
				byName[s.Name()] = s
			}
			parents := map[string]string{}
			for name, s := range byName {
				for parent, p := range byName {
					if p.SpanContext().SpanID() == s.Parent().SpanID() {
						parents[name] = parent
					}
				}
			}
			require.Equal(t, map[string]string{"append": "call", "fold": "append", "score": "fold", "query": "call"}, parents)
			attributes := map[string]string{}
			for _, a := range byName["fold"].Attributes() {
				attributes[string(a.Key)] = a.Value.String()
			}
			require.Equal(t, map[string]string{"shard": strconv.Itoa(shard), "epoch": "1", "offset": "1", "events": "1"}, attributes)

			families, err := reg.Gather()
			require.NoError(t, err)
			examples := map[string]string{}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					for _, bucket := range m.GetHistogram().GetBucket() {
						for _, l := range bucket.GetExemplar().GetLabel() {
							examples[f.GetName()] = l.GetValue()
						}
					}
				}
			}
			id := call.SpanContext().TraceID().String()
			require.Equal(t, map[string]string{"footfall_append_seconds": id, "footfall_apply_seconds": id}, examples)
		})
	}
}

// What is traced and never comes back to this process makes room.
func TestTracesHandedOverAreBounded(t *testing.T) {
	h := &handed{}
	for i := range 10 * mostHanded {
		h.put(1, uint32(i), "parent")
		require.LessOrEqual(t, len(h.by), mostHanded)
	}
	require.Empty(t, h.take(1, 0))
	require.Equal(t, "parent", h.take(1, 10*mostHanded-1))
	require.Empty(t, h.take(1, 10*mostHanded-1))
	for i := range 10 * mostHanded {
		h.take(1, uint32(i))
	}
	require.Zero(t, h.n.Load())
}

// nobodys takes every event and keeps nothing.
type nobodys struct{}

func (nobodys) near([]string) {}
func (nobodys) apply(string, *behavior.Event, messages.Position, int) behavior.Outcome {
	return behavior.Applied
}
func (nobodys) passed(string)            {}
func (nobodys) dead(messages.DeadLetter) {}
func (nobodys) tickedDay(int32)          {}
func (nobodys) epochRead(uint64, uint64) {}

// TestNotesDoNotAllocate folds a message with notes and without: neither they nor a tracer that
// has nothing to trace allocate.
func TestNotesDoNotAllocate(t *testing.T) {
	b := newBench(t, nil)
	cfg := b.cfg.withDefaults()
	cfg.Shards = 1
	var batch footfallv1.EventBatch
	for i := range 100 {
		batch.Events = append(batch.Events, sale(fmt.Sprintf("household-%d", i), fmt.Sprintf("b-%d", i), day1, line("GROCERY", "1.00"), line("PASTRY", "2.00")))
	}
	body, err := batch.MarshalVT()
	require.NoError(t, err)
	allocations := func(n *notes, tracer trace.Tracer) float64 {
		cfg := cfg
		cfg.Tracer = tracer
		s := &shard{cfg: &cfg, handed: &handed{}, fold: newFold(0, &cfg, behavior.NewCalendar(time.UTC))}
		s.fold.notes = n
		rec := messages.Record{Type: messages.BatchRecord, FromNode: true, Body: body, Sum: 1}
		to := nobodys{}
		return testing.AllocsPerRun(200, func() {
			rec.Offset = s.fold.next
			if tracer == nil {
				require.NoError(t, s.fold.record(&rec, to))
				return
			}
			require.Empty(t, s.handed.take(0, rec.Sum))
			require.NoError(t, s.fold.record(&rec, to))
		})
	}
	plain := allocations(nil, nil)
	require.Equal(t, plain, allocations(&notes{}, nil))
	require.Equal(t, plain, allocations(&notes{}, sdktrace.NewTracerProvider().Tracer("test")))
}
