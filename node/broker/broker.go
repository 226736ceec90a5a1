package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
	"footfall/rabbitmq"
)

// Options says which broker, and what for.
type Options struct {
	// URL and Files are how the broker is reached.
	URL   string
	Files rabbitmq.TLSFiles
	// Node is shown by the broker beside each connection.
	Node      string
	Identity  messages.Identity
	Retention rabbitmq.Retention
	Logger    *slog.Logger
	Registry  prometheus.Registerer
}

// Broker is what a node has on RabbitMQ. It has connections for appending, for reading, and
// one of the bridge, which looks after the dead letters, too: a broker that holds whoever
// publishes must not hold who reads.
type Broker struct {
	log    *rabbitmq.Log
	conn   *rabbitmq.Conn
	put    *rabbitmq.Publisher
	dead   *rabbitmq.DeadQueue
	bridge *rabbitmq.Bridge
	moved  prometheus.Counter
	logger *slog.Logger
}

var _ storage.Log = (*rabbitmq.Log)(nil)

// Open connects and declares. It waits until ctx ends for a broker that does not listen yet: one
// that is started together with the node. What it opens, Close closes, but for the log, which is its
// storage's to close.
func Open(ctx context.Context, o Options) (_ *Broker, err error) {
	b := &Broker{logger: o.Logger}
	defer func() {
		if err != nil {
			if b.log != nil {
				err = errors.Join(err, b.log.Close())
			}
			err = errors.Join(err, b.Close())
		}
	}()
	metrics, err := rabbitmq.NewMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	bridgeMetrics, err := rabbitmq.NewBridgeMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	b.moved = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "footfall_dead_letters_moved_total",
		Help: "Dead letters of shards that were moved from the store to the queue.",
	})
	if err := o.Registry.Register(b.moved); err != nil {
		return nil, err
	}
	topology := rabbitmq.Topology{Identity: o.Identity, Retention: o.Retention}
	connection := rabbitmq.Options{URL: o.URL, Files: o.Files, Client: "footfall " + o.Node, Logger: o.Logger, Metrics: metrics}
	b.log, err = once(ctx, o.Logger, func() (*rabbitmq.Log, error) {
		return rabbitmq.OpenLog(ctx, rabbitmq.LogOptions{Connection: connection, Topology: topology})
	})
	if err != nil {
		return nil, fmt.Errorf("log.url: %w", err)
	}
	connection.Name = "bridge"
	if b.conn, err = once(ctx, o.Logger, func() (*rabbitmq.Conn, error) { return rabbitmq.Open(ctx, connection) }); err != nil {
		return nil, err
	}
	if b.put, err = rabbitmq.NewPublisher(ctx, b.conn, rabbitmq.PublisherOptions{Name: "dead", Logger: o.Logger, Metrics: metrics}); err != nil {
		return nil, err
	}
	b.dead = rabbitmq.NewDeadQueue(rabbitmq.DeadQueueOptions{Topology: topology, Publisher: b.put, Conn: b.conn})
	b.bridge, err = rabbitmq.NewBridge(rabbitmq.BridgeOptions{Conn: b.conn, Topology: topology, Logger: o.Logger, Metrics: bridgeMetrics})
	return b, err
}

// tryEvery is how often a broker is tried that does not listen yet.
const tryEvery = 500 * time.Millisecond

// once opens something of a broker once that is there. Whatever else is wrong does not get better.
func once[T any](ctx context.Context, logger *slog.Logger, open func() (T, error)) (T, error) {
	t := time.NewTicker(tryEvery)
	defer t.Stop()
	for first := true; ; first = false {
		opened, err := open()
		if !starting(err) {
			return opened, err
		}
		if first {
			logger.Warn("the broker is not there yet", "reason", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return opened, err
		}
	}
}

// starting says that an error is one of a broker that starts or ends: it does not listen, or what
// stands before it closes the connection for it; it takes its leave; or it has not found all of its
// queues yet, and then says of one that is declared that there is none.
func starting(err error) bool {
	if op, network := errors.AsType[*net.OpError](err); network {
		return op.Op == "dial"
	}
	reply, answered := errors.AsType[*amqp.Error](err)
	return answered && slices.Contains([]int{amqp.NotFound, amqp.FrameError, amqp.ConnectionForced, amqp.ErrClosed.Code}, reply.Code)
}

// Log is the log on streams.
func (b *Broker) Log() *rabbitmq.Log { return b.log }

// Bridge takes events of publishers that do not know shards to their streams, until ctx ends.
func (b *Broker) Bridge(ctx context.Context) error { return b.bridge.Run(ctx) }

// Mover takes dead letters of the shards of this node to the queue.
func (b *Broker) Mover(from Letters) *Mover {
	return &Mover{From: from, To: b.dead, Logger: b.logger, Moved: b.moved}
}

// Letters are those of a store that have not been moved yet, and behind them the queue.
func (b *Broker) Letters(store *storage.DeadLetters) Both { return Both{store, b.dead} }

// Notes are what an operator should know of the bridge.
func (b *Broker) Notes() []string {
	if st := b.bridge.Status(); st.Err != nil {
		return []string{fmt.Sprintf("events of publishers that name no shard wait: %v", st.Err)}
	}
	return nil
}

// Close gives the connections back. The log is closed with its storage.
func (b *Broker) Close() error {
	var errs []error
	if b.put != nil {
		errs = append(errs, b.put.Close())
	}
	if b.conn != nil {
		errs = append(errs, b.conn.Close())
	}
	return errors.Join(errs...)
}

// Place is somewhere where dead letters are.
type Place interface {
	Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error
}

// Both are two places, visited one after the other.
type Both [2]Place

// Visit visits the first place, then, unless it was stopped, the second.
func (b Both) Visit(ctx context.Context, do func(*footfallv1.DeadLetter) (messages.Decision, error)) error {
	stopped := false
	for _, place := range b {
		err := place.Visit(ctx, func(l *footfallv1.DeadLetter) (messages.Decision, error) {
			d, err := do(l)
			stopped = d == messages.StopVisit
			return d, err
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}
