package node

import (
	"context"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// heavy says that there is time.
func heavy() bool { return os.Getenv("FOOTFALL_HEAVY") == "1" }

// victims are a broker and a node on it, in a process of its own, and what is done to them. A
// node that does not get through to its broker ends, and is started again, as by whoever runs it.
type victims struct {
	t      *testing.T
	broker *local.Broker
	config childConfig
	node   *process
}

func (v *victims) startNode() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(v.t, local.Await(ctx, func(context.Context) (err error) {
		v.node, err = trySpawn(v.t, v.config)
		return err
	}))
}

func (v *victims) killNode() {
	v.t.Helper()
	if v.node != nil {
		select {
		case <-v.node.log:
			v.t.Fatal("the node ended by itself")
		default:
		}
		v.node.kill(v.t)
		v.node = nil
	}
}

func (v *victims) killBroker() {
	v.t.Helper()
	require.NoError(v.t, v.broker.Kill())
}

func (v *victims) startBroker() {
	v.t.Helper()
	require.NoError(v.t, v.broker.Restart(v.t.Context()))
}

// killNodeAndBroker ends both without a wait in between.
func (v *victims) killNodeAndBroker() {
	v.t.Helper()
	require.NoError(v.t, v.node.cmd.Process.Kill())
	v.killBroker()
	v.node.kill(v.t)
	v.node = nil
}

// Invariants 2 to 4 of the design with the log on a broker: kill -9 of the node and of the
// broker in every order, under load.
func TestKillOnBroker(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	b := testBroker(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, what := range []string{"list_exchanges", "list_queues"} {
				said, err := b.Control(context.WithoutCancel(t.Context()), what, "name", "arguments")
				t.Log(said, err)
			}
		}
	})
	ports, err := local.ReservePorts(1)
	require.NoError(t, err)
	defer ports.Release()
	v := &victims{t: t, broker: b, config: childConfig{
		Dir: t.TempDir(), LogBroker: b.URL(), GRPC: local.Address(ports.Next()), Shards: faultShards,
	}}
	v.startNode()
	require.NoError(t, b.Settle(t.Context()))
	l := newLoad(t, seed, b.URLOf(publisherUser), v.config.GRPC, faultShards)
	l.start()

	moment := func() { l.after(rng.IntN(300)) }
	orders := []struct {
		name string
		do   func()
	}{
		{"broker, and node while it is away", func() {
			v.killBroker()
			v.killNode()
			v.startBroker()
			v.startNode()
		}},
		{"node while it comes back from a broker's end", func() {
			v.killBroker()
			v.startBroker()
			l.after(rng.IntN(10))
			v.killNode()
			v.startNode()
		}},
		{"node twice", func() {
			v.killNode()
			v.startNode()
			l.after(rng.IntN(3))
			v.killNode()
			v.startNode()
		}},
		{"broker", func() {
			v.killBroker()
			v.startBroker()
		}},
		{"node, and broker while it is away", func() {
			v.killNode()
			v.killBroker()
			v.startBroker()
			v.startNode()
		}},
		{"broker while the node recovers", func() {
			v.killNode()
			v.startNode()
			v.killBroker()
			v.startBroker()
		}},
		{"broker twice", func() {
			v.killBroker()
			v.startBroker()
			l.after(rng.IntN(3))
			v.killBroker()
			v.startBroker()
		}},
		{"both at once", func() {
			v.killNodeAndBroker()
			v.startBroker()
			v.startNode()
		}},
		{"node that waits for the broker", func() {
			v.killNodeAndBroker()
			started := make(chan error, 1)
			go func() { started <- v.broker.Restart(t.Context()) }()
			v.startNode()
			require.NoError(t, <-started)
		}},
		{"node", func() {
			v.killNode()
			v.startNode()
		}},
	}
	if !heavy() {
		orders = orders[:3]
	}
	rng.Shuffle(len(orders), func(i, j int) { orders[i], orders[j] = orders[j], orders[i] })
	for _, order := range orders {
		moment()
		t.Log(order.name)
		order.do()
	}
	moment()
	l.finish()
	v.killNode()
	l.check(launch(t, v.config.config()))
}
