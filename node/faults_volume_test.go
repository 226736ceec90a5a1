package node

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages/footfallv1"
)

// testDuplicates sends the same events again, each way, a hundred thousand of them: those of a
// customer that its record remembers, and those of a producer that counts. A node that
// has been stopped meanwhile knows them still.
func testDuplicates(t *testing.T, b *local.Broker, vhost string) {
	const (
		customers = 1050
		each      = 32 // what a record remembers
	)
	cfg := brokerConfig(t.TempDir(), b.URLIn(vhost, "node"))
	n := launch(t, cfg)
	publisher := b.URLIn(vhost, publisherUser)
	api := &apiWay{client: n.IngestServiceClient}
	direct := &amqpWay{url: publisher, shards: cfg.Shards, direct: true, encode: protobufTogether}
	anywhere := &amqpWay{url: publisher, shards: cfg.Shards, encode: protobufTogether}
	defer direct.close()
	defer anywhere.close()

	var batches [][]*footfallv1.Event
	sequence := uint64(0)
	for c := range customers {
		for i := range each {
			e := view(fmt.Sprint("c", c), fmt.Sprintf("%d-%d", c, i), monday.Add(time.Duration(i)*time.Minute))
			if c%3 == 0 { // else the ID alone tells
				sequence++
				e.Producer, e.Sequence = "counter", sequence
			}
			if i == 0 && c%30 == 0 {
				batches = append(batches, nil)
			}
			batches[len(batches)-1] = append(batches[len(batches)-1], e)
		}
	}
	send := func(w way) {
		for _, events := range batches {
			w.take(events)
			require.NoError(t, w.send(t.Context()))
		}
	}
	const sent = customers * each
	send(direct)
	n.idle(t)
	require.EqualValues(t, sent, n.applied(t))
	send(direct)
	send(api)
	n.halt(t)
	n = launch(t, cfg)
	send(anywhere)
	n.drain(t, publisher)
	n.idle(t)

	require.EqualValues(t, sent+cfg.Shards, n.applied(t))
	require.EqualValues(t, sent+cfg.Shards, n.verified(t))
	duplicates := 0
	for _, st := range n.host.Status() {
		duplicates += int(st.Duplicates)
	}
	require.Equal(t, 3*sent, duplicates)
	require.Empty(t, n.letters(t))
	for c := range customers {
		got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: fmt.Sprint("c", c)})
		require.NoError(t, err)
		require.EqualValues(t, each, got.GetLifetime().GetPageViews())
	}
	t.Logf("%d events, %d duplicates", sent, duplicates)
}

// testLargeCustomer has one customer with as many events as a shop has from all: its answers stay
// right, and its record small, so that they stay quick.
func testLargeCustomer(t *testing.T, b *local.Broker, vhost string) {
	const customer = "large"
	total := 100_000
	if heavy() {
		total = 1_000_000
	}
	cfg := brokerConfig(t.TempDir(), b.URLIn(vhost, "node"))
	n := launch(t, cfg)
	l := &amqpWay{url: b.URLIn(vhost, publisherUser), shards: cfg.Shards, direct: true, encode: protobufTogether}
	defer l.close()

	ask := func(waitFor string) (*footfallv1.Customer, time.Duration) {
		began := time.Now()
		c, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: waitFor})
		require.NoError(t, err)
		return c, time.Since(began)
	}
	var took []time.Duration
	sent, purchases := 0, 0
	for sent < total {
		var events []*footfallv1.Event
		for range 1000 {
			sent++
			at := monday.Add(time.Duration(sent) * 10 * time.Second)
			e := view(customer, strconv.Itoa(sent), at)
			if sent%10 == 0 {
				e = purchase(customer, e.GetEventId(), at, "0.10")
				purchases++
			}
			events = append(events, e)
		}
		l.take(events)
		require.NoError(t, l.send(t.Context()))
		if sent%10_000 != 0 {
			continue
		}
		c, _ := ask(strconv.Itoa(sent))
		require.EqualValues(t, sent, c.GetLifetime().GetEvents())
		require.EqualValues(t, purchases, c.GetLifetime().GetPurchases())
		require.Equal(t, fmt.Sprintf("%d.%d0", purchases/10, purchases%10), c.GetLifetime().GetSpend())
		for range 20 {
			_, d := ask("")
			took = append(took, d)
		}
	}
	n.idle(t)
	require.EqualValues(t, sent, n.applied(t))
	require.EqualValues(t, sent, n.verified(t))
	var resident int64
	for _, st := range n.host.Status() {
		resident += st.ResidentBytes
	}
	h, err := n.GetHistory(t.Context(), &footfallv1.GetHistoryRequest{CustomerId: customer, Limit: 100})
	require.NoError(t, err)
	require.True(t, h.GetTruncated())
	require.Len(t, h.GetEntries(), 100)
	for i, e := range h.GetEntries() {
		require.Equal(t, strconv.Itoa(sent-99+i), e.GetEvent().GetEventId())
		require.EqualValues(t, sent-99+i, e.GetState().GetLifetime().GetEvents())
	}
	require.Less(t, resident, int64(256<<10))
	slices.Sort(took)
	t.Logf("%d events; %d answers, half of them within %v, all within %v; the customer takes %d bytes",
		sent, len(took), took[len(took)/2], took[len(took)-1], resident)
}
