package bench

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// The benchmark's event is a purchase of three lines, about 300 bytes as protobuf.

const (
	shards = 64
	// batchEvents is how many events travel in a message of the log.
	batchEvents = 100
	begin       = 1_483_290_000 // 2017-01-01, Unix seconds
)

var departments = [...]string{
	"GROCERY", "PRODUCE", "MEAT", "PASTRY", "DAIRY", "DELI", "FLORAL", "NUTRITION",
	"COSMETICS", "DRUG GM", "SEAFOOD", "SALAD BAR", "FROZEN", "TRAVEL & LEISURE", "SPIRITS", "GARDEN CENTER",
}

// maker makes events of a number of customers whose activity is even.
type maker struct {
	rnd       *rand.Rand
	customers int
	i, n      int
	days      int
}

func newMaker(customers, events, days int) *maker {
	return &maker{rnd: rand.New(rand.NewPCG(1, uint64(customers))), customers: customers, n: events, days: days}
}

func money(cents int) string {
	return fmt.Sprintf("%d.%02d", cents/100, cents%100)
}

// next makes the next event in order of time.
func (m *maker) next() *footfallv1.Event {
	r := m.rnd
	id := strconv.FormatUint(r.Uint64()>>20, 10)
	at := begin + int64(m.i)*int64(m.days)*86400/int64(m.n)
	m.i++
	lines := make([]*footfallv1.Line, 3)
	for j := range lines {
		lines[j] = &footfallv1.Line{
			ProductId: strconv.Itoa(1_000_000 + r.IntN(90_000)), Department: departments[r.IntN(len(departments))],
			Quantity: 1 + uint32(r.IntN(4)), Amount: money(50 + r.IntN(2000)), Discount: money(r.IntN(100)),
		}
	}
	return &footfallv1.Event{
		EventId:    "basket-of-the-benchmark-" + id,
		CustomerId: "household-" + strconv.Itoa(10_000_000+r.IntN(m.customers)),
		Time:       &timestamppb.Timestamp{Seconds: at, Nanos: int32(r.IntN(1e9))},
		Producer:   "till-0001-of-store-0423",
		Sequence:   uint64(m.i),
		Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
			BasketId: "31198459610-" + id, Currency: "USD", StoreId: "store-0423", Lines: lines,
		}},
	}
}

// encoded makes n events as protobuf.
func encoded(m *maker, n int) ([][]byte, error) {
	out := make([][]byte, n)
	for i := range out {
		b, err := m.next().MarshalVT()
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

// shardMessage is a message for the log of one shard.
type shardMessage struct {
	shard  int
	events int
	body   []byte
}

// batched makes n events as messages of one shard each, in an order in which every shard's
// events keep theirs.
func batched(m *maker, n int) ([]shardMessage, error) {
	var (
		out  []shardMessage
		open [shards]shardMessage
	)
	for range n {
		ev := m.next()
		shard := messages.ShardOf(ev.CustomerId, shards)
		b := &open[shard]
		b.shard = shard
		if err := b.add(ev); err != nil {
			return nil, err
		}
		if b.events == batchEvents {
			out = append(out, *b)
			*b = shardMessage{}
		}
	}
	for _, b := range open {
		if b.events > 0 {
			out = append(out, b)
		}
	}
	return out, nil
}
