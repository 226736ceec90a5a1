package datasets

import (
	"encoding/binary"
	"hash/fnv"
	"unsafe"
)

// PeerStream is a deterministic workload on which other stream processors have been measured, too:
// N purchases of C customers over the year 2024, every thousandth an exact duplicate of one shortly
// before. The hottest customer has 1/√C of the events. Event i is a pure function of N, C and i, so
// any number of goroutines may generate any parts of it.
type PeerStream struct {
	// N is the number of events, C the number of customers, at most 10,000,000.
	N, C uint64
}

// PeerEvent is one event of a [PeerStream]. Reuse one for many.
type PeerEvent struct {
	// ID identifies the event. A duplicate has the one of its original.
	ID uint64
	// Time is in Unix milliseconds.
	Time int64
	// Customer is the customer's index, from 0 to C-1.
	Customer uint32
	// Cents is what was paid, Discount what was taken off, in cents.
	Cents, Discount uint32
	// Departments are those of the three lines that share the spend, 0 to 31 each.
	Departments [3]uint8
	// Items is 1 to 20.
	Items uint8

	id [8]byte
}

const (
	peerSeed  = 42
	peerGamma = 0x9E3779B97F4A7C15
	// Twice, three and four times gamma, wrapped.
	peerGamma2 = 0x3C6EF372FE94F82A
	peerGamma3 = 0xDAA66D2C7DDF743F
	peerGamma4 = 0x78DDE6E5FD29F054

	peerStart = 1_704_067_200_000
	peerSpan  = 31_536_000_000
)

func peerMix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// At makes event i, 0 ≤ i < N.
func (p PeerStream) At(i uint64, into *PeerEvent) {
	if i%1000 == 999 {
		i -= 7
	}
	z := peerSeed + (8*i+1)*peerGamma
	w0 := peerMix(z)
	w1 := peerMix(z + peerGamma)
	w2 := peerMix(z + peerGamma2)
	w3 := peerMix(z + peerGamma3)
	w4 := peerMix(z + peerGamma4)

	u := float64(w0>>11) * (1.0 / (1 << 53))
	customer := uint32(float64(p.C) * float64(u*u))
	cents := uint32(50 + (w1>>1)%19951)
	discount := uint32(0)
	if w2&3 == 0 {
		discount = cents * uint32((w2>>2)%31) / 100
	}
	into.ID = w4
	into.Time = peerStart + int64(i*peerSpan/p.N)
	into.Customer = customer
	into.Cents = cents
	into.Discount = discount
	into.Departments = [3]uint8{uint8(w3 & 31), uint8(w3 >> 5 & 31), uint8(w3 >> 10 & 31)}
	into.Items = uint8(1 + (w3>>32)%20)
	into.id = peerID(customer)
}

// peerID is "C" and seven decimal digits. All digits are made at once in the lanes of one word:
// two of four digits, four of two, eight of one.
func peerID(customer uint32) (id [8]byte) {
	v := uint64(customer/10_000) | uint64(customer%10_000)<<32
	hundreds := v * 10_486 >> 20 & 0x0000007F_0000007F
	v = (v-100*hundreds)<<16 + hundreds
	tens := v * 103 >> 10 & 0x000F000F_000F000F
	v = (v-10*tens)<<8 + tens
	binary.LittleEndian.PutUint64(id[:], v+0x30303030_30303030+('C'-'0'))
	return id
}

// CustomerID is the customer's name, "C" and seven digits. The string is part of the event: it
// changes with it.
func (e *PeerEvent) CustomerID() string { return unsafe.String(&e.id[0], len(e.id)) }

// Check is FNV-1a 64 over the number of accepted events of every customer, in order of their
// indexes, each as eight bytes little-endian. It is the same for whoever has folded the whole stream
// right:
//
//	N =  1,000,000, C =   100,000: b2e8122606b84eea (1,000 duplicates, 99,838 customers)
//	N =  2,000,000, C =   100,000: bb48231b7ea6bdd0
//	N = 20,000,000, C = 1,000,000: 39a631667295156f
func (p PeerStream) Check(counts func(customer uint32) uint64) uint64 {
	h := fnv.New64a()
	var b [8]byte
	for c := range uint32(p.C) {
		binary.LittleEndian.PutUint64(b[:], counts(c))
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}
