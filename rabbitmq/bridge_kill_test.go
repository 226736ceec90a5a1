package rabbitmq

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// TestBridgeBrokerKilled kills the broker under two bridges at work. One customer has half of the
// events: more of one shard are republished within a moment than readers remember, and the
// acks of that moment are what the broker has not written.
func TestBridgeBrokerKilled(t *testing.T) {
	rounds := 1
	if os.Getenv("FOOTFALL_HEAVY") == "1" {
		rounds = 10
	}
	r := newBridgeRig(t, local.TestBroker(t, local.BrokerOptions{}), 16)
	require.NoError(t, r.broker.Settle(t.Context()))
	rng := rand.New(rand.NewPCG(3, 3))
	bridges := []*Bridge{r.bridge("bridge0"), r.bridge("bridge1")}
	stops := []func(){r.run(bridges[0]), r.run(bridges[1])}
	for _, stop := range stops {
		defer stop()
	}
	p, gen := newPublished(), &traffic{rng: rng, customers: 40, hot: true}
	for round := range rounds {
		before := settled(bridges)
		r.fill(p, gen, 6000)
		at := before + 6000*uint64(rng.IntN(100))/100
		await(t, "a bridge is at work", func() bool { return settled(bridges) >= at })
		require.NoError(t, r.broker.Kill())
		require.NoError(t, r.broker.Restart(t.Context()))
		await(t, "the queues are back", func() bool { return bridges[0].Status().State != BridgeAway && bridges[1].Status().State != BridgeAway })
		t.Logf("round %d: killed after %d of %d", round, settled(bridges), p.messages)
	}
	r.finish(p)
	for _, stop := range stops {
		stop()
	}
	r.check(p)
}
