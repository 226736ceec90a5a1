package behavior

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

var update = flag.Bool("update", false, "write the golden files again")

// goldens are short lives whose records must never change their bytes within a version.
func goldens() map[string][]Event {
	at := func(day, h int64) int64 {
		return time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() + day*dayMillis + h*hour
	}
	buy := func(id uint64, ms, spend int64, departments ...string) Event {
		ev := Event{ID: id, Time: ms, Kind: Purchase, Spend: spend, Discount: spend / 10, Items: 2}
		for _, d := range departments {
			ev.Departments = append(ev.Departments, Department(d))
		}
		return ev
	}
	lives := map[string][]Event{
		"one_purchase": {buy(1, at(0, 12), 5_000, "PASTRY")},
		"all_kinds": {
			buy(1, at(0, 12), 50_000, "PASTRY", "DELI"),
			{ID: 2, Time: at(1, 9), Kind: PageView},
			{ID: 3, Time: at(1, 10), Kind: CartAdd},
			{ID: 4, Time: at(1, 11), Kind: CartRemove},
			{ID: 5, Time: at(2, 0), Kind: CampaignReceived, Until: at(30, 5)},
			{ID: 6, Time: at(3, 0), Kind: CouponRedeemed},
			{ID: 7, Time: at(4, 0), Kind: Refund, Spend: 70_000},
			{ID: 8, Time: at(5, 0), Kind: Profile, Attributes: []Attribute{{"age", "35-44"}, {"city", "Köln"}}},
			{ID: 9, Time: at(6, 0), Kind: Identify, Known: "anna"},
			buy(10, at(6, 20), 1_000_001, "DELI", "FUEL"),
		},
		"erased": {
			buy(1, at(0, 12), 50_000, "PASTRY"),
			{ID: 2, Time: at(1, 0), Kind: Profile, Attributes: []Attribute{{"age", "35-44"}}},
			{ID: 3, Time: at(1, 0), Kind: Erase},
		},
	}
	var long []Event
	for i := range int64(60) {
		long = append(long, buy(uint64(100+i), at(i*i/8, i%24), 10_000+i, fmt.Sprint("d", i%70), fmt.Sprint("d", (i+3)%90)))
		if i%7 == 0 {
			long = append(long, Event{ID: uint64(200 + i), Time: at(i*i/8-5, 3), Kind: Refund, Spend: 4_000})
		}
	}
	long = append(long, buy(300, at(400, 1), 9, "late"), buy(301, at(-10, 1), 7, "too late"), buy(302, at(200, 1), 7, "too late"))
	lives["long"] = long
	return lives
}

func live(events []Event, cal *Calendar) (rec Record) {
	for i := range events {
		rec, _ = Apply(rec, &events[i], cal)
	}
	return rec
}

// TestGolden holds the bytes of version 1, and that what was stored under it still loads.
func TestGolden(t *testing.T) {
	cal := NewCalendar(zone(t, "America/New_York"))
	for name, events := range goldens() {
		t.Run(name, func(t *testing.T) {
			rec := live(events, cal)
			path := filepath.Join("testdata", "v1_"+name+".golden")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(hexLines(rec)), 0o644))
			}
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(text), hexLines(rec))
			stored, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
			require.NoError(t, err)
			loaded, err := Load(stored)
			require.NoError(t, err)
			require.Equal(t, rec.Lifetime(), loaded.Lifetime())
		})
	}
}

func hexLines(b []byte) string {
	var out strings.Builder
	for line := range slices.Chunk(b, 32) {
		fmt.Fprintf(&out, "%x\n", line)
	}
	return out.String()
}

// TestLoadRefuses breaks one thing of a good record at a time.
func TestLoadRefuses(t *testing.T) {
	cal := NewCalendar(time.UTC)
	lives := goldens()
	for _, c := range []struct {
		life, reason string
		harm         func(r Record) Record
	}{
		{"long", "is empty", func(Record) Record { return nil }},
		{"long", "has version 2, this program reads 1", func(r Record) Record { r[0] = 2; return r }},
		{"long", "less than a header", func(r Record) Record { return r[:headerSize-1] }},
		{"long", "unknown flag", func(r Record) Record { r[1] = 4; return r }},
		{"long", "masks of 3 words", func(r Record) Record { r[4] = 3; return r }},
		{"long", "unknown flag", func(r Record) Record { r[5] = 1; return r }},
		{"one_purchase", "65 departments for 64 bits", func(r Record) Record { r[6] = 65; return r }},
		{"one_purchase", "has 0 event IDs", func(r Record) Record { r[2] = 0; return r }},
		{"one_purchase", "has 33 event IDs", func(r Record) Record { r[2] = 33; return r }},
		{"one_purchase", "writes the next to 2", func(r Record) Record { r[3] = 2; return r }},
		{"long", "writes the next to 32", func(r Record) Record { r[3] = 32; return r }},
		{"long", "its parts", func(r Record) Record { return r[:len(r)-1] }},
		{"long", "ends in an attribute", func(r Record) Record { return append(r, 0, 1) }},
		{"long", "empty profile", func(r Record) Record { return append(r, 0) }},
		{"long", "known_as of 7 bytes", func(r Record) Record { return append(r, 7) }},
		{"all_kinds", "attribute, number 2", func(r Record) Record { return r[:len(r)-1] }},
		{"all_kinds", `attribute "aaty" after "age"`, func(r Record) Record { return bytes.Replace(r, []byte("city"), []byte("aaty"), 1) }},
		{"long", "time of", func(r Record) Record { r.head().setI64(hLastEvent, math.MaxInt64); return r }},
		{"long", "after day", func(r Record) Record { tile(r.tiles()).setStamp(1 << 20); return r }},
		{"long", "sums out of range", func(r Record) Record { tile(r.tiles()).setSpend(math.MinInt64); return r }},
		{"long", "sums out of range", func(r Record) Record { tile(r.tiles()).setDiscount(-1); return r }},
		{"long", "shopping days of", func(r Record) Record { t := tile(r.tiles()); t.setStamp(t.stamp() &^ 1); return r }},
		{"long", "and 0 purchases", func(r Record) Record { r.head().setU32(hPurchases, 0); return r }},
		{"erased", "shopping days but no purchase", func(r Record) Record { r.head().setI32(hLastDay, 1); return r }},
		{"erased", "erased but not empty", func(r Record) Record { r.head().setU32(hPageViews, 1); return r }},
		{"long", "latest shopping day", func(r Record) Record { r.head().setI32(hLastDay, 1); return r }},
		{"long", "base day", func(r Record) Record { r.head().setI32(hBaseDay, 20_000); return r }},
		{"long", "first day", func(r Record) Record { r.head().setU32(hShoppingDays, 3); return r }},
		{"long", "base gap NaN", func(r Record) Record { r.head().setF64(hBaseGap, math.NaN()); return r }},
		{"long", "gap_ewma", func(r Record) Record { r.head().setF64(hGap, r.head().f64(hGap)+1e-9); return r }},
		{"one_purchase", "unknown department", func(r Record) Record { tile(r.tiles()).setMask(0, 2); return r }},
		{"all_kinds", "of refunds", func(r Record) Record { tile(r.tiles()[32:]).setItems(1); return r }},
	} {
		t.Run(c.life+" "+c.reason, func(t *testing.T) {
			good := live(lives[c.life], cal)
			_, err := Load(slices.Clone(good))
			require.NoError(t, err)
			_, err = Load(c.harm(slices.Clone(good)))
			var corrupt *messages.CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.ErrorContains(t, err, c.reason)
		})
	}
}

// FuzzLoad takes anything as a record: what Load accepts can be read and folded, and stays good.
func FuzzLoad(f *testing.F) {
	cal := NewCalendar(zone(f, "America/New_York"))
	for _, events := range goldens() {
		f.Add([]byte(live(events, cal)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := Load(slices.Clone(b))
		if err != nil {
			return
		}
		require.Equal(t, b, []byte(rec))
		readAll(rec, cal)
		last := rec.Lifetime().LastPurchase
		for i, ev := range []Event{
			{Time: last - 30*dayMillis, Kind: Purchase, Spend: 1, Departments: []uint32{1, 2, 3}},
			{Time: last + 100*dayMillis, Kind: Refund, Spend: 1},
			{Time: last + 200*dayMillis, Kind: Purchase, Spend: 1},
			{Time: last, Kind: Profile, Attributes: []Attribute{{"age", ""}, {"b", "c"}}},
			{Time: last, Kind: Erase},
		} {
			ev.ID = uint64(i) << 32
			rec, _ = Apply(rec, &ev, cal)
			require.NoError(t, rec.Validate())
			readAll(rec, cal)
		}
	})
}

func readAll(rec Record, cal *Calendar) {
	var f Features
	var s [10][5]float64
	for _, at := range []int64{math.MinInt64, 0, rec.Lifetime().LastEvent, math.MaxInt64} {
		rec.Features(at, cal, &f)
		rec.Sequence(at, cal, &s)
	}
	for _, v := range f {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			panic(fmt.Sprint("features ", f))
		}
	}
	rec.KnownAs()
	rec.Attributes()
}

// FuzzApply takes anything as a stream of events, each with any field: records stay good, and
// in place or not gives the same.
func FuzzApply(f *testing.F) {
	cal := NewCalendar(zone(f, "America/New_York"))
	f.Add(bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, 40))
	f.Add(bytes.Repeat([]byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 17, 200, 33}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		var copied Record
		inPlace := make(Record, 0, 1<<16)
		r := fuzzReader(b)
		for n := 0; len(r) > 0 && n < 500; n++ {
			ev := r.event()
			var o1, o2 Outcome
			copied, o1 = Apply(slices.Clip(slices.Clone(copied)), &ev, cal)
			inPlace, o2 = Apply(inPlace, &ev, cal)
			require.Equal(t, o1, o2)
			require.Equal(t, copied, inPlace)
			require.NoError(t, copied.Validate())
			readAll(copied, cal)
		}
	})
}

// fuzzReader makes events of bytes; past the end it reads 0.
type fuzzReader []byte

func (r *fuzzReader) byte() (b byte) {
	if len(*r) > 0 {
		b, *r = (*r)[0], (*r)[1:]
	}
	return b
}

// number is small, or of days, or of any 64 bits.
func (r *fuzzReader) number() int64 {
	switch k := r.byte(); k % 4 {
	case 0:
		return int64(r.byte())
	case 1, 2:
		return (int64(r.byte())<<8 | int64(r.byte())) * hour * int64(k%4)
	default:
		var b [8]byte
		*r = (*r)[copy(b[:], *r):]
		return int64(binary.LittleEndian.Uint64(b[:]))
	}
}

func (r *fuzzReader) event() Event {
	ev := Event{Kind: Kind(r.byte() % 13), ID: uint64(r.number()), Time: r.number()}
	switch ev.Kind {
	case Purchase, Refund:
		ev.Spend, ev.Discount, ev.Items = r.number(), r.number(), uint32(r.number())
		for range r.byte() % 80 {
			ev.Departments = append(ev.Departments, uint32(r.byte())*uint32(1+r.byte()%4))
		}
	case CampaignReceived:
		ev.Until = r.number()
	case Profile:
		for range r.byte() % 90 {
			ev.Attributes = append(ev.Attributes, Attribute{string(bytes.Repeat([]byte{r.byte()}, int(r.byte()))), strings.Repeat("v", int(r.byte())*2)})
		}
	case Identify:
		ev.Known = strings.Repeat("k", int(r.byte()))
	case PageView, CartAdd, CartRemove, CouponRedeemed, Erase: // have nothing more
	}
	return ev
}
