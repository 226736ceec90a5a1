package rabbitmq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// deadRig is a dead-letter queue of a test's own.
type deadRig struct {
	*bridgeRig
	queue *DeadQueue
}

func newDeadRig(t *testing.T, broker *local.Broker) *deadRig {
	r := newBridgeRig(t, broker, 1)
	p, err := NewPublisher(t.Context(), r.conn("publish"), PublisherOptions{Name: "dead"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return &deadRig{r, NewDeadQueue(DeadQueueOptions{Topology: r.Topology, Publisher: p, Conn: r.conn("visit")})}
}

// letter is one that a shard has refused.
func letter(n int) *footfallv1.DeadLetter {
	return &footfallv1.DeadLetter{
		Id: messages.DeadLetterID(3, messages.Position{Offset: uint64(n), Index: 1}), Source: messages.ShardSource(3),
		Shard: 3, Offset: int64(n), Index: 1, Field: "time", Reason: "is required: " + fmt.Sprint(n), EventId: "e", CustomerId: "900",
		ContentType: messages.ContentProtobuf, Type: messages.TypeEvent, Body: []byte{byte(n), byte(n >> 8), 0xff},
	}
}

// visit returns the letters that a visit shows, and decides each by its place.
func (r *deadRig) visit(decide func(i int, l *footfallv1.DeadLetter) messages.Decision) (seen []*footfallv1.DeadLetter) {
	require.NoError(r.t, r.queue.Visit(r.t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
		seen = append(seen, l)
		return decide(len(seen)-1, l), nil
	}))
	return seen
}

func keepAll(int, *footfallv1.DeadLetter) messages.Decision { return messages.KeepLetter }

func requireLetters(t *testing.T, want, got []*footfallv1.DeadLetter) {
	t.Helper()
	ids := func(letters []*footfallv1.DeadLetter) (ids []string) {
		for _, l := range letters {
			ids = append(ids, l.Id)
		}
		return ids
	}
	require.Equal(t, ids(want), ids(got))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "letter %d: %v is %v", i, want[i], got[i])
	}
}

// TestDeadQueueVisits holds the queue against a list, over visits that keep, remove, stop and fail
// at any place.
func TestDeadQueueVisits(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	rng := rand.New(rand.NewPCG(4, 4))
	var want []*footfallv1.DeadLetter
	next := 0
	for range 60 {
		var more []*footfallv1.DeadLetter
		for range rng.IntN(12) {
			more = append(more, letter(next))
			next++
		}
		require.NoError(t, r.queue.Put(t.Context(), more...))
		want = append(want, more...)
		removal, end := rng.Float64()/2, rng.IntN(3*len(want)+1)
		failure := errors.New("as told")
		fails := rng.IntN(2) == 0
		var left, seen []*footfallv1.DeadLetter
		err := r.queue.Visit(t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			seen = append(seen, l)
			switch {
			case len(seen)-1 == end && fails:
				return messages.RemoveLetter, failure
			case len(seen)-1 == end:
				return messages.StopVisit, nil
			case rng.Float64() < removal:
				return messages.RemoveLetter, nil
			}
			left = append(left, l)
			return messages.KeepLetter, nil
		})
		shown := min(len(want), end+1)
		requireLetters(t, want[:shown], seen)
		if end < len(want) {
			if fails {
				require.ErrorIs(t, err, failure)
			} else {
				require.NoError(t, err)
			}
			left = append(left, want[end:]...)
		} else {
			require.NoError(t, err)
		}
		want = left
	}
	require.NotEmpty(t, want)
	requireLetters(t, want, r.visit(keepAll))
	r.visit(func(int, *footfallv1.DeadLetter) messages.Decision { return messages.RemoveLetter })
	require.Empty(t, r.visit(keepAll))
}

// TestDeadQueueTwins puts letters twice, as a failure between a confirm and what follows does.
func TestDeadQueueTwins(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	for _, n := range []int{0, 1, 2, 1, 3, 0} {
		require.NoError(t, r.queue.Put(t.Context(), letter(n)))
	}
	requireLetters(t, []*footfallv1.DeadLetter{letter(0), letter(1), letter(2), letter(3)}, r.visit(keepAll))
	// Both of one go, also where the second stands behind the end of the visit.
	r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		return []messages.Decision{messages.RemoveLetter, messages.StopVisit}[i]
	})
	requireLetters(t, []*footfallv1.DeadLetter{letter(1), letter(2), letter(3)}, r.visit(keepAll))
	r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		return []messages.Decision{messages.RemoveLetter, messages.RemoveLetter, messages.KeepLetter}[i]
	})
	requireLetters(t, []*footfallv1.DeadLetter{letter(3)}, r.visit(keepAll))
	require.Equal(t, 1, r.depth(r.DeadName()))
}

// TestDeadQueueOfOthers shows what others have put there: a policy of the broker, a publisher
// without our headers, and one that claims the ID of another letter.
func TestDeadQueueOfOthers(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	ch := r.channel("others")
	defer ch.Close()
	require.NoError(t, ch.Confirm(false))
	put := func(exchange, key string, msg amqp.Publishing) {
		c, err := ch.PublishWithDeferredConfirm(exchange, key, true, false, msg)
		require.NoError(t, err)
		require.True(t, c.Wait())
	}
	require.NoError(t, r.queue.Put(t.Context(), letter(7)))
	put("", r.DeadName(), amqp.Publishing{
		MessageId: letter(7).Id, Body: []byte("false"),
		Headers: amqp.Table{HeaderReason: []byte("because"), HeaderPosition: "x/y", HeaderSource: int32(3), HeaderField: "\xff"},
	})
	put(r.DeadName(), "", amqp.Publishing{ContentType: "\xff", Type: "t", Body: []byte("plain")})
	short := r.Prefix + ".short"
	_, err := ch.QueueDeclare(short, true, false, false, false, amqp.Table{"x-message-ttl": int32(0), "x-dead-letter-exchange": r.DeadName()})
	require.NoError(t, err)
	put("", short, amqp.Publishing{ContentType: messages.ContentJSON, MessageId: "m", Body: []byte("{}")})
	await(t, "it is moved", func() bool { return r.depth(r.DeadName()) == 4 })

	got := r.visit(keepAll)
	for _, l := range got[1:] {
		require.Regexp(t, "^foreign-[0-9a-f]{32}$", l.Id)
		l.Id = ""
		_, err := proto.Marshal(l)
		require.NoError(t, err)
	}
	requireLetters(t, []*footfallv1.DeadLetter{
		letter(7),
		{Reason: "because", Body: []byte("false")},
		{Reason: "the publisher gave no reason", Type: "t", Body: []byte("plain")},
		{Reason: "the broker moved it here: expired", Source: short, ContentType: messages.ContentJSON, Body: []byte("{}")},
	}, got)
	// Removing ours leaves the one that claims to be it.
	r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		if i == 0 {
			return messages.RemoveLetter
		}
		return messages.KeepLetter
	})
	require.Equal(t, "false", string(r.visit(keepAll)[0].Body))
}

func TestDeadQueuePut(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	require.ErrorContains(t, r.queue.Put(t.Context(), &footfallv1.DeadLetter{}), "the ID must have 1 to 255 bytes, not 0")
	long := letter(1)
	long.Reason, long.Field, long.EventId, long.CustomerId = string(make([]byte, 1<<20)), "ä"+string(make([]byte, 1<<20)), "\xff", string(make([]byte, 1000))
	require.NoError(t, r.queue.Put(t.Context(), long))
	got := r.visit(keepAll)
	require.Len(t, got, 1)
	require.Equal(t, long.Body, got[0].Body)
	require.Len(t, got[0].Reason, maxReason)

	// Without the queue a letter is not lost in silence.
	ch := r.channel("delete")
	defer ch.Close()
	_, err := ch.QueueDelete(r.DeadName(), false, false, false)
	require.NoError(t, err)
	var returned *ReturnedError
	require.ErrorAs(t, r.queue.Put(t.Context(), letter(2)), &returned)
	require.Error(t, r.queue.Visit(t.Context(), nil))
}

// TestDeadQueueMany visits more letters than a window holds, and at once again after each end.
func TestDeadQueueMany(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	var want []*footfallv1.DeadLetter
	for n := range 300 {
		l := letter(n)
		l.Body = make([]byte, 100<<10)
		want = append(want, l)
	}
	require.NoError(t, r.queue.Put(t.Context(), want...))
	for _, end := range []int{0, 1, 31, 32, 33, 299, 40, 500} {
		seen := r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
			if i == end {
				return messages.StopVisit
			}
			return messages.KeepLetter
		})
		requireLetters(t, want[:min(len(want), end+1)], seen)
	}
	r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		if i%3 == 0 {
			return messages.RemoveLetter
		}
		return messages.KeepLetter
	})
	want = slices.DeleteFunc(want, func(l *footfallv1.DeadLetter) bool { return l.Offset%3 == 0 })
	requireLetters(t, want, r.visit(keepAll))
}

// TestDeadQueueOneAtATime has visits of one process wait for each other.
func TestDeadQueueOneAtATime(t *testing.T) {
	r := newDeadRig(t, sharedBroker(t))
	require.NoError(t, r.queue.Put(t.Context(), letter(1), letter(2)))
	inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan []*footfallv1.DeadLetter)
	go r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		if i == 0 {
			close(inside)
			<-leave
		}
		return messages.KeepLetter
	})
	<-inside
	go func() { done <- r.visit(keepAll) }()
	select {
	case <-done:
		require.Fail(t, "a second visit did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	requireLetters(t, []*footfallv1.DeadLetter{letter(1), letter(2)}, <-done)
}

// TestDeadQueueBrokerKilled kills the broker between a visit and the next, and within one.
func TestDeadQueueBrokerKilled(t *testing.T) {
	r := newDeadRig(t, local.TestBroker(t, local.BrokerOptions{}))
	require.NoError(t, r.broker.Settle(t.Context()))
	var want []*footfallv1.DeadLetter
	for n := range 40 {
		want = append(want, letter(n))
	}
	require.NoError(t, r.queue.Put(t.Context(), want...))
	r.visit(func(i int, _ *footfallv1.DeadLetter) messages.Decision {
		if i%4 == 0 {
			return messages.RemoveLetter
		}
		return messages.KeepLetter
	})
	want = slices.DeleteFunc(want, func(l *footfallv1.DeadLetter) bool { return l.Offset%4 == 0 })
	requireLetters(t, want, r.visit(keepAll))
	require.NoError(t, r.broker.Kill())
	require.NoError(t, r.broker.Restart(t.Context()))
	var got []*footfallv1.DeadLetter
	again := func() bool {
		got = nil
		return r.queue.Visit(t.Context(), func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			got = append(got, l)
			return messages.KeepLetter, nil
		}) == nil
	}
	await(t, "the queue is back", again)
	requireLetters(t, want, got)

	n := 0
	require.Error(t, r.queue.Visit(t.Context(), func(*footfallv1.DeadLetter) (messages.Decision, error) {
		if n++; n == 10 {
			require.NoError(t, r.broker.Kill())
		}
		return messages.KeepLetter, nil
	}))
	require.NoError(t, r.broker.Restart(t.Context()))
	await(t, "the queue is back", again)
	requireLetters(t, want, got)
}
