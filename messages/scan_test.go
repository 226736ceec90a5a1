package messages

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "footfall/messages/footfallv1"
)

// encode is an event's canonical bytes.
func encode(tb testing.TB, ev *pb.Event) []byte {
	tb.Helper()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
	require.NoError(tb, err)
	return raw
}

// checkScan demands of an event's bytes that the scanner either leaves them alone, or reads what
// the decoder reads and the validator accepts.
func checkScan(tb testing.TB, shard int, raw []byte) bool {
	tb.Helper()
	got := Scanned{Lines: []ScannedLine{{Department: "of the last event", Amount: 7}}}
	v := testValidator
	if !v.ScanPurchase(shard, raw, &got) {
		return false
	}
	var ev pb.Event
	require.NoError(tb, proto.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(raw, &ev))
	require.Nil(tb, v.ValidateIn(shard, &ev))
	purchase, ok := ev.Kind.(*pb.Event_Purchase)
	require.True(tb, ok)
	want := Scanned{
		EventID: ev.EventId, CustomerID: ev.CustomerId, Producer: ev.Producer, Sequence: ev.Sequence,
		Seconds: ev.Time.Seconds, Nanos: ev.Time.Nanos,
	}
	for _, l := range purchase.Purchase.Lines {
		line := ScannedLine{Department: l.Department, Quantity: l.Quantity}
		var err error
		line.Amount, err = ParseMoney(l.Amount)
		require.NoError(tb, err)
		if l.Discount != "" {
			line.Discount, err = ParseMoney(l.Discount)
			require.NoError(tb, err)
		}
		want.Lines = append(want.Lines, line)
	}
	require.Equal(tb, want, got)
	return true
}

func TestScanPurchaseOfAnyKind(t *testing.T) {
	for _, ev := range goodEvents() {
		_, purchase := ev.Kind.(*pb.Event_Purchase)
		purchase = purchase && ev.Sequence < 1<<63
		shard := ShardOf(ev.CustomerId, testValidator.Shards)
		require.Equal(t, purchase, checkScan(t, shard, encode(t, ev)), ev.EventId)
		require.False(t, checkScan(t, (shard+1)%testValidator.Shards, encode(t, ev)), "another shard's")
	}
}

func TestScanPurchaseAcceptsWhatHasNoFault(t *testing.T) {
	for name, change := range map[string]func(*pb.Event, *pb.Purchase){
		"no producer":        func(ev *pb.Event, _ *pb.Purchase) { ev.Producer, ev.Sequence = "", 0 },
		"the first instant":  func(ev *pb.Event, _ *pb.Purchase) { ev.Time = at(0) },
		"the last instant":   func(ev *pb.Event, _ *pb.Purchase) { ev.Time = at(endTime - 1); ev.Time.Nanos = 999_999_999 },
		"a large sequence":   func(ev *pb.Event, _ *pb.Purchase) { ev.Sequence = 1<<63 - 1 },
		"no currency":        func(_ *pb.Event, p *pb.Purchase) { p.Currency = "" },
		"names beyond ASCII": func(_ *pb.Event, p *pb.Purchase) { p.Lines[0].Department = "BÄCKEREI" },
		"a line of little":   func(_ *pb.Event, p *pb.Purchase) { p.Lines[1] = &pb.Line{Amount: "0"} },
		"most lines":         func(_ *pb.Event, p *pb.Purchase) { p.Lines = slices.Repeat(p.Lines[:1], MaxLines) },
	} {
		t.Run(name, func(t *testing.T) {
			ev := goodPurchase()
			change(ev, ev.GetPurchase())
			require.True(t, checkScan(t, ShardOf(ev.CustomerId, testValidator.Shards), encode(t, ev)))
		})
	}
}

func TestScanPurchaseLeavesTheRestAlone(t *testing.T) {
	ev := goodPurchase()
	shard := ShardOf(ev.CustomerId, testValidator.Shards)
	raw := encode(t, ev)
	require.True(t, checkScan(t, shard, raw))
	text := func(b []byte, field protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
	}
	for name, raw := range map[string][]byte{
		"nothing":              nil,
		"a field twice":        text(slices.Clone(raw), 1, "b-2"),
		"fields in disorder":   append(text(nil, 4, "till"), raw...),
		"a field nobody knows": text(slices.Clone(raw), 30, "x"),
		"two kinds":            append(slices.Clone(raw), encode(t, &pb.Event{Kind: &pb.Event_Erase{Erase: &pb.Erase{}}})...),
		"a tag of two bytes":   append([]byte{0x8a, 0}, raw[1:]...),
		"a group":              append(slices.Clone(raw), 11<<3|3),
		"cut short":            raw[:len(raw)-1],
	} {
		t.Run(name, func(t *testing.T) { require.False(t, checkScan(t, shard, raw)) })
	}
	for name, change := range map[string]func(*pb.Event, *pb.Purchase){
		"no ID":                func(ev *pb.Event, _ *pb.Purchase) { ev.EventId = "" },
		"a slash":              func(ev *pb.Event, _ *pb.Purchase) { ev.CustomerId = "9/0" },
		"no time":              func(ev *pb.Event, _ *pb.Purchase) { ev.Time = nil },
		"before 1970":          func(ev *pb.Event, _ *pb.Purchase) { ev.Time = at(-1) },
		"after 2200":           func(ev *pb.Event, _ *pb.Purchase) { ev.Time = at(endTime) },
		"too many nanoseconds": func(ev *pb.Event, _ *pb.Purchase) { ev.Time.Nanos = 1e9 },
		"no sequence":          func(ev *pb.Event, _ *pb.Purchase) { ev.Sequence = 0 },
		"a huge sequence":      func(ev *pb.Event, _ *pb.Purchase) { ev.Sequence = 1 << 63 },
		"no kind":              func(ev *pb.Event, _ *pb.Purchase) { ev.Kind = nil },
		"no lines":             func(_ *pb.Event, p *pb.Purchase) { p.Lines = nil },
		"too many lines":       func(_ *pb.Event, p *pb.Purchase) { p.Lines = slices.Repeat(p.Lines[:1], MaxLines+1) },
		"other money":          func(_ *pb.Event, p *pb.Purchase) { p.Currency = "EUR" },
		"a control character":  func(_ *pb.Event, p *pb.Purchase) { p.Lines[2].ProductId = "1\n" },
		"no amount":            func(_ *pb.Event, p *pb.Purchase) { p.Lines[2].Amount = "" },
		"a negative amount":    func(_ *pb.Event, p *pb.Purchase) { p.Lines[2].Amount = "-1" },
		"a negative discount":  func(_ *pb.Event, p *pb.Purchase) { p.Lines[2].Discount = "-1" },
		"a large quantity":     func(_ *pb.Event, p *pb.Purchase) { p.Lines[2].Quantity = MaxQuantity + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			ev := goodPurchase()
			change(ev, ev.GetPurchase())
			require.False(t, checkScan(t, ShardOf(ev.CustomerId, testValidator.Shards), encode(t, ev)))
		})
	}
}

// Any bytes at all, and any bytes in the place of an event's.
func FuzzScanPurchase(f *testing.F) {
	for _, ev := range goodEvents() {
		f.Add(encode(f, ev), 0, byte(0))
	}
	f.Add(encode(f, goodPurchase()), 3, byte(0xff))
	f.Fuzz(func(t *testing.T, raw []byte, place int, b byte) {
		var peeked pb.Event
		if place >= 0 && place < len(raw) {
			raw = slices.Clone(raw)
			raw[place] = b
		}
		_ = proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(raw, &peeked) // for its shard
		checkScan(t, ShardOf(peeked.CustomerId, testValidator.Shards), raw)
	})
}

func BenchmarkScanPurchase(b *testing.B) {
	ev := goodPurchase()
	raw := encode(b, ev)
	shard := ShardOf(ev.CustomerId, testValidator.Shards)
	v := testValidator
	var into Scanned
	b.ReportAllocs()
	for b.Loop() {
		if !v.ScanPurchase(shard, raw, &into) {
			b.Fatal("not accepted")
		}
	}
}
