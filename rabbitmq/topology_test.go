package rabbitmq

import (
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
)

func TestDeclareIsIdempotent(t *testing.T) {
	c := openConn(t, Options{URL: sharedBroker(t).URL(), Name: "declare"})
	top := newTopology(4)
	top.Retention = Retention{MaxAge: time.Hour, MaxBytes: 1 << 20}
	var wg sync.WaitGroup
	names := make([]string, 4)
	for i := range names { // nodes that start together
		wg.Go(func() {
			if err := top.Declare(t.Context(), c); err != nil {
				t.Error(err)
			}
			var err error
			if names[i], err = top.LogName(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NotEmpty(t, names[0])
	for _, name := range names {
		require.Equal(t, names[0], name)
	}
	require.NotEqual(t, names[0], func() string {
		name, err := newTopology(4).LogName(t.Context(), c)
		require.NoError(t, err)
		return name
	}())
}

func TestDeclareRefusesAnotherIdentity(t *testing.T) {
	c := openConn(t, Options{URL: sharedBroker(t).URL(), Name: "declare"})
	top := newTopology(4)
	require.NoError(t, top.Declare(t.Context(), c))
	for name, c2 := range map[string]struct {
		change func(*messages.Identity)
		want   messages.IdentityError
	}{
		"shards":   {func(i *messages.Identity) { i.Shards = 8 }, messages.IdentityError{Field: "shards", Have: "4", Want: "8"}},
		"timezone": {func(i *messages.Identity) { i.Timezone = "Europe/Berlin" }, messages.IdentityError{Field: "timezone", Have: "UTC", Want: "Europe/Berlin"}},
		"rules":    {func(i *messages.Identity) { i.TimezoneSum = "x" }, messages.IdentityError{Field: "timezone_sum", Have: "0123456789abcdef", Want: "x"}},
		"currency": {func(i *messages.Identity) { i.Currency = "EUR" }, messages.IdentityError{Field: "currency", Have: "USD", Want: "EUR"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := top
			c2.change(&other.Identity)
			var fixed *messages.IdentityError
			require.ErrorAs(t, other.Declare(t.Context(), c), &fixed)
			require.Equal(t, c2.want, *fixed)

			l := Log{o: LogOptions{Topology: top}}
			require.ErrorAs(t, l.CheckIdentity(other.Identity), &fixed)
			require.Equal(t, c2.want, *fixed)
			require.NoError(t, l.CheckIdentity(top.Identity))
		})
	}
}

func TestDeclareNamesWhatDiffers(t *testing.T) {
	c := openConn(t, Options{URL: sharedBroker(t).URL(), Name: "declare"})
	ch, err := c.Channel(t.Context())
	require.NoError(t, err)
	for name, c2 := range map[string]struct {
		before func(Topology) error
		change func(*Topology)
		want   func(Topology) TopologyError
	}{
		"age of a stream": {
			before: func(top Topology) error { return top.Declare(t.Context(), c) },
			change: func(top *Topology) { top.Retention.MaxAge = 90 * time.Minute },
			want: func(top Topology) TopologyError {
				return TopologyError{Kind: "stream", Name: top.StreamName(0), Argument: "x-max-age", Have: "35D", Want: "5400s"}
			},
		},
		"bytes of a stream": {
			before: func(top Topology) error { return top.Declare(t.Context(), c) },
			change: func(top *Topology) { top.Retention.MaxBytes, top.Retention.SegmentBytes = 1<<40, defaultSegmentBytes },
			want: func(top Topology) TopologyError {
				return TopologyError{Kind: "stream", Name: top.StreamName(0), Argument: "x-max-length-bytes", Have: "none", Want: "1099511627776"}
			},
		},
		"a queue that is none of ours": {
			before: func(top Topology) error {
				_, err := ch.QueueDeclare(top.StreamName(1), true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
				return err
			},
			change: func(*Topology) {},
			want: func(top Topology) TopologyError {
				return TopologyError{Kind: "stream", Name: top.StreamName(1), Argument: "x-queue-type", Have: "quorum", Want: "stream"}
			},
		},
		"an exchange of another type": {
			before: func(top Topology) error {
				return ch.ExchangeDeclare(top.EventsExchange(), "topic", true, false, false, false, nil)
			},
			change: func(*Topology) {},
			want: func(top Topology) TopologyError {
				return TopologyError{Kind: "exchange", Name: top.EventsExchange(), Argument: "type", Have: "topic", Want: "direct"}
			},
		},
		"an exchange that loses messages": {
			before: func(top Topology) error {
				return ch.ExchangeDeclare(top.EventsExchange(), "direct", true, false, false, false, nil)
			},
			change: func(*Topology) {},
			want: func(top Topology) TopologyError {
				return TopologyError{Kind: "exchange", Name: top.EventsExchange(), Argument: "alternate-exchange", Have: "none", Want: top.UnshardedName()}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := newTopology(2)
			require.NoError(t, c2.before(top))
			c2.change(&top)
			var differs *TopologyError
			require.ErrorAs(t, top.Declare(t.Context(), c), &differs)
			want := c2.want(top)
			want.Err = differs.Err
			require.Equal(t, want, *differs)
			require.ErrorContains(t, differs, differs.Name+" exists with "+want.Argument)
		})
	}
}

func TestDeclareNeedsPermission(t *testing.T) {
	broker := local.TestBroker(t, local.BrokerOptions{Users: []local.User{
		{Name: "footfall", Password: "footfall", Configure: ".*", Write: ".*", Read: ".*"},
		{Name: "shop", Password: "shop", Configure: "^$", Write: `^footfall\.events$`, Read: "^$"},
		{Name: "node", Password: "node", Configure: `^footfall\..*`, Write: `^(footfall\..*|amq\.default)$`, Read: `^footfall\..*`},
	}})
	shop := openConn(t, Options{URL: broker.URLOf("shop"), Name: "shop"})
	var refused *TopologyError
	top := newTopology(2)
	top.Prefix = ""
	require.ErrorAs(t, top.Declare(t.Context(), shop), &refused)
	require.ErrorContains(t, refused, "needs the permissions")

	// A node needs no permission but for its own names, and nobody can pass for it.
	l := openLog(t, logOptions(t, broker.URLOf("node"), top))
	record := messages.Record{Type: messages.EventRecord, FromNode: true, Body: []byte("from a node")}
	require.NoError(t, l.Append(t.Context(), 1, []messages.Record{record}))
	p, err := NewPublisher(t.Context(), shop, PublisherOptions{Name: "shop"})
	require.NoError(t, err)
	defer p.Close()
	lie := publishing(&record, "node")
	c, err := p.Publish(t.Context(), top.EventsExchange(), "1", lie)
	require.NoError(t, err)
	require.Error(t, c.Wait(t.Context()))
	lie.UserId = ""
	for err = errClosed; err != nil; { // until the publisher has another channel
		require.NoError(t, t.Context().Err())
		if c, err = p.Publish(t.Context(), top.EventsExchange(), "1", lie); err == nil {
			err = c.Wait(t.Context())
		}
	}
	r, err := l.Open(t.Context(), 1, messages.Mark{})
	require.NoError(t, err)
	defer r.Close()
	var fromNode []bool
	for len(fromNode) < 2 {
		var batch messages.RecordBatch
		require.NoError(t, r.Next(t.Context(), &batch))
		for _, m := range batch.Records {
			fromNode = append(fromNode, m.FromNode)
		}
	}
	require.Equal(t, []bool{true, false}, fromNode)
}

func TestTopologyChecksItself(t *testing.T) {
	c := &Conn{}
	top := newTopology(0)
	require.ErrorContains(t, top.Declare(t.Context(), c), "0 shards")
	top = newTopology(4)
	for _, prefix := range []string{"with space", "a=b", "0123456789012345678901234567890123"} {
		top.Prefix = prefix
		require.ErrorContains(t, top.Declare(t.Context(), c), "prefix")
	}
}

func TestSegments(t *testing.T) {
	for name, c := range map[string]struct {
		r    Retention
		want amqp.Table
	}{
		"defaults": {Retention{}, amqp.Table{"x-queue-type": "stream", "x-max-age": "35D", "x-stream-max-segment-size-bytes": int64(64 << 20)}},
		"for ever": {Retention{MaxAge: -1}, amqp.Table{"x-queue-type": "stream", "x-stream-max-segment-size-bytes": int64(64 << 20)}},
		"little":   {Retention{MaxAge: 36 * time.Hour, MaxBytes: 8 << 20}, amqp.Table{"x-queue-type": "stream", "x-max-age": "129600s", "x-max-length-bytes": int64(8 << 20), "x-stream-max-segment-size-bytes": int64(1 << 20)}},
		"least":    {Retention{MaxAge: 1, MaxBytes: 1}, amqp.Table{"x-queue-type": "stream", "x-max-age": "1s", "x-max-length-bytes": int64(1), "x-stream-max-segment-size-bytes": int64(64 << 10)}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.r.arguments()) })
	}
}

func TestParseInequivalent(t *testing.T) {
	const before = "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': "
	for text, want := range map[string][3]string{
		before + "received '1D' but current is '35D'":                                                        {"x-max-age", "35D", "1D"},
		before + "received the value '1D' of type 'longstr' but current is none":                             {"x-max-age", "none", "1D"},
		before + "received none but current is the value '35D' of type 'longstr'":                            {"x-max-age", "35D", "none"},
		before + "received the value '5' of type 'long' but current is the value '6' of ty":                  {"x-max-age", "6' of ty", "5"},
		"NOT_FOUND - no queue 'q' in vhost '/'":                                                              {},
		"PRECONDITION_FAILED - invalid arg 'x-max-age' for queue 'q' in vhost '/': {unacceptable_type,long}": {},
	} {
		argument, have, wanted := parseInequivalent(text)
		require.Equal(t, want, [3]string{argument, have, wanted}, text)
	}
}
