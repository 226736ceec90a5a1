package inference

import (
	"math"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// Plan says by model what is to serve. Of a model that it does not name, the highest version that
// loads does.
type Plan map[string]ModelPlan

// ModelPlan says what is to serve of one model.
type ModelPlan struct {
	// Champion is the version whose scores customers see. Where it can't be loaded, what served
	// stays; where nothing did, Previous serves, or else the highest version that loads and is not in Refused.
	Champion, Previous string
	Refused            []string
	// Challenger runs beside it; nil where none does.
	Challenger *Challenger
}

// Challenger is a version that is tried against a champion.
type Challenger struct {
	Version string
	// Share of the customers that it scores, from 0 to 1: see [Chosen].
	Share float64
	// Shadow scores are compared, and nobody sees them.
	Shadow bool
	// Comparison takes what is found. It must be set.
	Comparison *Comparison
}

// Chosen reports whether a customer is among a share of all, as the model's name cuts them. Who
// is among a smaller share is among a larger one, and models cut independently of each other.
// customer is a hash of all 64 bits of whose ID, [CustomerHash].
func Chosen(customer, model uint64, share float64) bool {
	return place(customer, model) < limitOf(share)
}

// CustomerHash is what stands for a customer where shares are cut.
func CustomerHash(id []byte) uint64 { return xxhash.Sum64(id) }

// ModelHash is what stands for a model there.
func ModelHash(name string) uint64 { return xxhash.Sum64String(name) }

// place mixes two hashes so that all bits of the result depend on all of both.
func place(customer, model uint64) uint64 {
	x := customer ^ bits.RotateLeft64(model, 31)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x ^ x>>31) >> 1
}

// limitOf is the place before which a share's customers are. Places have 63 bits.
func limitOf(share float64) uint64 {
	if !(share > 0) {
		return 0
	}
	return uint64(math.Ldexp(min(share, 1), 63))
}
