package members_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

func view(customer, id string, at time.Time) *footfallv1.Event {
	return &footfallv1.Event{
		EventId: id, CustomerId: customer, Time: timestamppb.New(at), Kind: &footfallv1.Event_PageView{PageView: &footfallv1.PageView{Url: "/"}},
	}
}

// TestBetweenNodes holds what one node knows and another is asked: events that were refused, and days that have ended.
func TestBetweenNodes(t *testing.T) {
	w := newWorld(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	n1 := launch(t, w.spec("n1"))
	n2 := launch(t, w.spec("n2", n1))
	home := owners(t, n1, n2)
	both := []*member{n1, n2}
	for i := range customers {
		_, err := w.publish(t.Context(), n1, customer(i))
		require.NoError(t, err)
	}

	t.Run("refused at another node", func(t *testing.T) { refusedElsewhere(t, home, n1, n2) })

	t.Run("the clock is driven", func(t *testing.T) {
		for round, date := range []string{"2017-01-02", "2017-01-03", "2017-01-04", "2017-01-05", "2017-01-06"} {
			driver, other := both[round%2], both[(round+1)%2]
			day, err := time.Parse(time.DateOnly, date)
			require.NoError(t, err)
			tick, err := driver.Tick(t.Context(), &footfallv1.TickRequest{Date: date})
			require.NoError(t, err)
			require.True(t, tick.GetAppended())
			for _, m := range []*member{other, driver} {
				ahead, beyond := &footfallv1.EventBatch{}, &footfallv1.EventBatch{}
				for i := range customers {
					id := fmt.Sprintf("%s-%s-%d", date, m.name, i)
					ahead.Events = append(ahead.Events, view(customer(i), id, day.Add(48*time.Hour-time.Second)))
					beyond.Events = append(beyond.Events, view(customer(i), id+"-beyond", day.Add(48*time.Hour+time.Second)))
				}
				r, err := m.Publish(t.Context(), beyond)
				require.NoError(t, err)
				require.Len(t, r.GetRejected(), customers, "%s through %s", date, m.name)
				require.Equal(t, "time", r.GetRejected()[0].GetField())
				r, err = m.Publish(t.Context(), ahead)
				require.NoError(t, err)
				require.EqualValues(t, customers, r.GetAccepted(), "%s through %s: %v", date, m.name, r.GetRejected())
			}
		}
		_, err := n1.WaitIdle(t.Context(), &footfallv1.WaitIdleRequest{})
		require.NoError(t, err)
		list, err := n2.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
		require.NoError(t, err)
		for _, s := range list.GetShards() {
			require.Zero(t, s.GetRejected(), "what the door takes is folded")
		}
	})
}

// refusedElsewhere waits for events that a node refused which does not own their customers.
func refusedElsewhere(t *testing.T, home map[uint32]string, n1, n2 *member) {
	owned := map[string]string{} // by owner
	for i := range customers {
		owned[home[uint32(messages.ShardOf(customer(i), shards))]] = customer(i)
	}
	for _, at := range []*member{n1, n2} {
		for owner, customer := range owned {
			bad := func(id string) *footfallv1.EventBatch {
				return &footfallv1.EventBatch{Events: []*footfallv1.Event{{
					EventId: id, CustomerId: customer, Time: timestamppb.New(monday),
					Kind: &footfallv1.Event_Refund{Refund: &footfallv1.Refund{Amount: "-1.00"}},
				}}}
			}
			refused := func(err error) {
				t.Helper()
				require.Equal(t, codes.Aborted, status.Code(err), "%v", err)
				detail, ok := status.Convert(err).Details()[0].(*errdetails.BadRequest)
				require.True(t, ok)
				require.Equal(t, "refund.amount", detail.GetFieldViolations()[0].GetField())
			}
			id := "bad-" + at.name + "-" + owner
			r, err := at.Publish(t.Context(), bad(id))
			require.NoError(t, err)
			require.Len(t, r.GetRejected(), 1)
			for _, asked := range []*member{n1, n2} {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err = asked.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: id})
				cancel()
				refused(err)
			}

			// Who waits already hears of it, too.
			id += "-later"
			waiting := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := n1.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: id})
				waiting <- err
			}()
			_, err = at.Publish(t.Context(), bad(id))
			require.NoError(t, err)
			refused(<-waiting)
		}
	}
}
