package inference

import (
	"context"
	"fmt"
	"math/bits"
)

// maxPlayers bounds what an explanation can tell apart: with n it takes 2^n rows.
const maxPlayers = 12

// Explanation says what each feature of a customer contributed to what a model says of it, as
// Shapley values: a feature's contribution is what its value, put in the place of the
// baseline's, changes in the answer, averaged over all orders in which the features could be
// put in one after the other.
//
// It is computed exactly, over all subsets of the features, hence
//
//  1. the contributions add up to Value − Baseline, but for the rounding of the model's
//     float32;
//  2. a feature that the model ignores, and one whose value is the baseline's, gets 0;
//  3. two features that do the same get the same.
type Explanation struct {
	Model, Version string
	// Value is what the model says of the customer, Baseline of the baseline customer: see
	// [Contract.BaselineOf].
	Value, Baseline float64
	// Contributions are in the order of the contract's features.
	Contributions []Contribution
}

// Contribution is one feature's.
type Contribution struct {
	Feature string
	Value   float64
}

// ExplainError says why a model's answers can't be explained.
type ExplainError struct{ Model, Version, Reason string }

func (e *ExplainError) Error() string {
	return fmt.Sprintf("inference: %s %s can't be explained: %s", e.Model, e.Version, e.Reason)
}

// player is one that contributions are for: some values of a row, of which all are the
// customer's or all the baseline's.
type player struct {
	name string
	// input has the values, at these places of a row.
	input string
	at    []int
}

// players are the features of a contract. In a sequence one is a column, over all its days:
// what a shopping day is told by, as the ten features are what a customer is. Beside other
// features the sequence is one as a whole, so that their number stays small.
func players(c *Contract, l Layout) []player {
	var all []player
	for _, in := range c.Inputs {
		width, columns := l.width(in.Name), len(in.Features)
		if in.Name == Sequence && len(c.Inputs) > 1 {
			p := player{name: Sequence, input: Sequence}
			for i := range width {
				p.at = append(p.at, i)
			}
			all = append(all, p)
			continue
		}
		for i, name := range in.Features {
			p := player{name: name, input: in.Name}
			for at := i; at < width; at += columns {
				p.at = append(p.at, at)
			}
			all = append(all, p)
		}
	}
	return all
}

// Explain explains what the contract's model says of one customer, whose rows are given;
// score asks that version: [Queries.Score]. Errors: [*ExplainError], [*BaselineError], and
// those of score.
func Explain(ctx context.Context, c *Contract, l Layout, features, sequence []float32, score func(context.Context, Request) (Scores, error)) (*Explanation, error) {
	if c.Outputs[0].Kind != Probability {
		return nil, &ExplainError{c.Name, c.VersionString(), fmt.Sprintf("it answers a %s, and contributions add up to a number", c.Outputs[0].Kind)}
	}
	customer := map[string][]float32{Features: features, Sequence: sequence}
	rows := map[string][]float32{}
	for _, in := range c.Inputs {
		base, err := c.baseline(in, l)
		if err != nil {
			return nil, err
		}
		if len(customer[in.Name]) != len(base) {
			return nil, &RequestError{Field: in.Name, Reason: fmt.Sprintf("has %d values, where a row has %d", len(customer[in.Name]), len(base))}
		}
		rows[in.Name] = base
	}
	e := &Explanation{Model: c.Name, Version: c.VersionString()}
	// Only who differs from the baseline plays: all others contribute nothing, exactly.
	var playing []player
	var index []int
	for _, p := range players(c, l) {
		e.Contributions = append(e.Contributions, Contribution{Feature: p.name})
		for _, at := range p.at {
			if customer[p.input][at] != rows[p.input][at] {
				playing = append(playing, p)
				index = append(index, len(e.Contributions)-1)
				break
			}
		}
	}
	if len(playing) > maxPlayers {
		return nil, &ExplainError{c.Name, c.VersionString(), fmt.Sprintf("the customer differs from the baseline in %d features, and at most %d can be told apart", len(playing), maxPlayers)}
	}
	for input, base := range rows {
		rows[input] = coalitions(base, customer[input], input, playing)
	}
	scores, err := score(ctx, Request{
		Rows: 1 << len(playing), Features: rows[Features], Sequences: rows[Sequence],
		Model: c.Name, Version: c.VersionString(), Synthetic: true,
	})
	if err != nil {
		return nil, err
	}
	v := scores.Values
	e.Value, e.Baseline = float64(v[len(v)-1]), float64(v[0])
	for i, phi := range shapley(v) {
		e.Contributions[index[i]].Value = phi
	}
	return e, nil
}

// coalitions returns a row for each subset of the players: in row s those whose bit is set in
// s have the customer's values, all others the baseline's.
func coalitions(base, own []float32, input string, playing []player) []float32 {
	width := len(base)
	rows := make([]float32, width<<len(playing))
	copy(rows, base)
	for i, p := range playing {
		// The rows with this player are those without it, once more.
		with := rows[width<<i : width<<(i+1)]
		copy(with, rows)
		if p.input != input {
			continue
		}
		for row := 0; row < len(with); row += width {
			for _, at := range p.at {
				with[row+at] = own[at]
			}
		}
	}
	return rows
}

// shapley returns the Shapley values of a game, given what each coalition gets: 2^n values by
// the set of bits of who is in it.
func shapley(v []float32) []float64 {
	n := bits.Len(uint(len(v))) - 1
	phi := make([]float64, n)
	// share[k] is the share of the orders in which certain k others come before a player, and
	// the rest after it: k!·(n−1−k)!/n!.
	share := make([]float64, n)
	for k := range share {
		if k == 0 {
			share[k] = 1 / float64(n)
			continue
		}
		share[k] = share[k-1] * float64(k) / float64(n-k)
	}
	for i := range phi {
		bit := 1 << i
		for s, without := range v {
			if s&bit == 0 {
				phi[i] += share[bits.OnesCount(uint(s))] * (float64(v[s|bit]) - float64(without))
			}
		}
	}
	return phi
}
