package rollout

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"footfall/messages"
)

// Memory is a [Store] for a program on its own that ends with it. The zero value is empty.
type Memory struct {
	mu  sync.Mutex
	all map[string]messages.Rollout
}

// Rollouts implements [Store].
func (m *Memory) Rollouts(context.Context) ([]messages.Rollout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.all), func(a, b messages.Rollout) int { return strings.Compare(a.Model, b.Model) }), nil
}

// PutRollout implements [Store].
func (m *Memory) PutRollout(_ context.Context, model string, generation uint64, body []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if have := m.all[model].Generation; have != generation {
		return &messages.GenerationError{What: "roll-out of " + model, Want: generation, Have: have}
	}
	if m.all == nil {
		m.all = make(map[string]messages.Rollout)
	}
	m.all[model] = messages.Rollout{Model: model, Generation: generation + 1, Body: slices.Clone(body)}
	return nil
}
