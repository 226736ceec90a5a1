package replay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/behavior"
	"footfall/messages/footfallv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	driven = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	wall   = footfallv1.ClockMode_CLOCK_MODE_WALL
)

// appliedOnce checks that every event was applied exactly once, in order within its customer.
func appliedOnce(t *testing.T, n *fakeNode, events []*footfallv1.Event) {
	t.Helper()
	require.Len(t, n.applied, len(events))
	times := map[string]uint64{}
	seen := map[string]bool{}
	for _, ev := range n.applied {
		require.False(t, seen[ev.GetEventId()], "%s is applied twice", ev.GetEventId())
		seen[ev.GetEventId()] = true
		require.Greater(t, ev.GetSequence(), times[ev.GetCustomerId()], "the order within customer %s", ev.GetCustomerId())
		times[ev.GetCustomerId()] = ev.GetSequence()
	}
}

func TestRunDrivesTheClock(t *testing.T) {
	for _, lose := range []int{0, 20} {
		t.Run(fmt.Sprintf("%d%% lost", lose), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, events := history(t, 10, 300, 3, 4)
				node := newFakeNode(driven)
				node.lose = lose
				var ended []string
				report, err := Run(t.Context(), node, src, Options{Then: wall, DayEnded: func(_ context.Context, day int32) error {
					ended = append(ended, behavior.FormatDate(day))
					return nil
				}})
				require.NoError(t, err)
				appliedOnce(t, node, events)

				want := []string{"2017-01-01", "2017-01-02", "2017-01-03", "2017-01-04", "2017-01-05", "2017-01-06", "2017-01-07", "2017-01-08", "2017-01-09", "2017-01-10"}
				require.Equal(t, want, node.ticks, "days without events end, too")
				require.Equal(t, want, ended)
				for i, date := range want {
					have := 300 * (i + 1)
					if i >= 3 {
						have -= 300 * min(i-2, 2)
					}
					require.Equal(t, have, node.after[date], "%s ended before all its events were there", date)
				}
				require.Equal(t, wall, node.then)
				require.Equal(t, 10, report.Ticks)
				require.EqualValues(t, 2400, report.Accepted)
				require.Equal(t, lose > 0, report.Resent > 0)
				require.Equal(t, "2017-01-01 2017-01-10", behavior.FormatDate(report.First)+" "+behavior.FormatDate(report.Last))
			})
		})
	}
}

func TestRunTwiceChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		src, events := history(t, 5, 100)
		_, err := Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		again, err := Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		appliedOnce(t, node, events)
		require.Len(t, node.ticks, 5)
		require.Zero(t, again.Ticks)
	})
}

func TestRunResumesAfterItWasCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		node.lose = 10
		src, events := history(t, 12, 200)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("enough")
		_, err := Run(ctx, node, src, Options{DayEnded: func(_ context.Context, day int32) error {
			if behavior.FormatDate(day) == "2017-01-04" {
				cancel(stop)
			}
			return nil
		}})
		require.ErrorIs(t, err, stop)
		require.Less(t, len(node.applied), len(events))
		_, err = Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		appliedOnce(t, node, events)
		require.Len(t, node.ticks, 12)
	})
}

func TestRunUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		src, _ := history(t, 10, 50, 4, 5)
		until, err := behavior.ParseDate("2017-01-06")
		require.NoError(t, err)
		_, err = Run(t.Context(), node, src, Options{Until: until})
		require.NoError(t, err)
		require.Len(t, node.applied, 4*50)
		require.Equal(t, "2017-01-06", node.lastTick, "the last day ends, though it has no event")
		require.Len(t, node.ticks, 6)
	})
}

func TestRunUnderAWallClockSendsNoTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(wall)
		src, events := history(t, 3, 50)
		report, err := Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		appliedOnce(t, node, events)
		require.Empty(t, node.ticks)
		require.Equal(t, wall, report.Clock)
	})
}

// A node that has ended earlier days would take the first events for events of the future.
func TestRunCatchesUpWithTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		node.lastTick = "2016-02-03"
		src, _ := history(t, 1, 10)
		_, err := Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		require.Equal(t, []string{"2016-12-31", "2017-01-01"}, node.ticks)
		require.Zero(t, node.after["2016-12-31"])
	})
}

func TestRunAtASpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		src, _ := history(t, 2, 10)
		began := time.Now()
		_, err := Run(t.Context(), node, src, Options{Speed: 3600})
		require.NoError(t, err)
		// From 08:00 to 08:09 a day later, 3,600 times as fast.
		took := time.Since(began)
		require.GreaterOrEqual(t, took, 24*time.Second)
		require.Less(t, took, 26*time.Second)
	})
}

func TestRunReportsRejectedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		node.reject = "7"
		src, _ := history(t, 2, 80)
		report, err := Run(t.Context(), node, src, Options{})
		require.NoError(t, err)
		require.EqualValues(t, 4, report.Rejected)
		require.EqualValues(t, 156, report.Accepted)
		require.Equal(t, map[string]uint64{"customer_id: is not welcome": 4}, report.Reasons)
		require.Equal(t, "event 8 (e-0-7): customer_id: is not welcome", report.FirstRejected.String())
	})
}

func TestRunGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newFakeNode(driven)
		node.down = true
		src, _ := history(t, 1, 1)
		began := time.Now()
		_, err := Run(t.Context(), node, src, Options{Patience: time.Minute})
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.GreaterOrEqual(t, time.Since(began), time.Minute)
	})
}

func TestRunRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		events []*footfallv1.Event
		err    error
		want   string
	}{
		"nothing":           {want: "the history holds no event to replay"},
		"a day back":        {events: []*footfallv1.Event{on(2), on(1)}, want: "event 2 (e-1) is of 2017-01-01, but that day has ended: sort the events by time"},
		"a history's error": {events: []*footfallv1.Event{on(1)}, err: errors.New("line 2: torn"), want: "line 2: torn"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := Source{Location: newYork, Events: func(yield func(*footfallv1.Event, error) bool) {
					for _, ev := range tt.events {
						if !yield(ev, nil) {
							return
						}
					}
					if tt.err != nil {
						yield(nil, tt.err)
					}
				}}
				_, err := Run(t.Context(), newFakeNode(driven), src, Options{})
				require.EqualError(t, err, tt.want)
			})
		})
	}
}

func on(day int) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: fmt.Sprintf("e-%d", day), CustomerId: "1",
		Time: timestamppb.New(time.Date(2017, 1, day, 12, 0, 0, 0, newYork)),
	}
}
