package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/rabbitmq"
)

// brokerFlags say which broker, and how it is reached.
type brokerFlags struct {
	url    string
	shards int
	files  rabbitmq.TLSFiles
}

func (f *brokerFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "broker", "", "publish to this RabbitMQ instead of a node: amqp:// or amqps:// URL; its password may be in FOOTFALL_BROKER_PASSWORD")
	flags.IntVar(&f.shards, "shards", 0, "with --broker: the cluster's number of shards; 0: the nodes find each event's")
	flags.StringVar(&f.files.CA, "broker-ca", "", "with --broker: CA of an amqps broker, where it is not the machine's")
	flags.StringVar(&f.files.Cert, "broker-cert", "", "with --broker: certificate shown to it")
	flags.StringVar(&f.files.Key, "broker-key", "", "with --broker: key of that certificate")
}

// withPassword puts a password into a broker's URL that has none.
func withPassword(broker, password string) string {
	u, err := url.Parse(broker)
	if err != nil || u.User == nil || password == "" {
		return broker // whoever connects says what is wrong with it
	}
	if _, has := u.User.Password(); !has {
		u.User = url.UserPassword(u.User.Username(), password)
	}
	return u.String()
}

// publishToBroker sends events to a broker without a node.
func (a *app) publishToBroker(ctx context.Context, f *brokerFlags, in io.Reader, producer string) (err error) {
	b, err := openBroker(ctx, withPassword(f.url, a.getenv("FOOTFALL_BROKER_PASSWORD")), f.files, f.shards)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return a.publish(ctx, b, max(b.shards, 1), in, producer)
}

// brokerIngest takes events to the broker instead of a node. It answers as a node does, but
// for what only nodes know: an event of another currency, or too far in the future, becomes a
// dead letter there.
type brokerIngest struct {
	conn     *rabbitmq.Conn
	topology rabbitmq.Topology
	// shards is 0 where the nodes are to find each event's shard.
	shards int

	mu sync.Mutex // guards what follows
	// publishers has one for each routing key: brokers before 4.0 may lose confirmed messages of
	// a channel that publishes to several streams, when a stream's leader changes.
	publishers map[string]*rabbitmq.Publisher
}

// openBroker connects with a broker on which a node has declared everything.
func openBroker(ctx context.Context, broker string, files rabbitmq.TLSFiles, shards int) (_ *brokerIngest, err error) {
	if shards < 0 || shards > messages.MaxShards {
		return nil, usagef("--shards %d: 1 to %d, or 0 where the nodes are to find each event's shard", shards, messages.MaxShards)
	}
	b := &brokerIngest{shards: shards, publishers: map[string]*rabbitmq.Publisher{}}
	if b.conn, err = rabbitmq.Open(ctx, rabbitmq.Options{URL: broker, Files: files, Name: "publish", Client: "footfall publish"}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.conn.Close())
		}
	}()
	ch, err := b.conn.Channel(ctx)
	if err != nil {
		return nil, err
	}
	if err := ch.ExchangeDeclarePassive(b.topology.EventsExchange(), amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("the broker has no exchange %s that this user may see: start a node on it first (log.url), or check the virtual host and the user's permissions: %w", b.topology.EventsExchange(), err)
	}
	return b, ch.Close()
}

// Close gives the channels and the connection back.
func (b *brokerIngest) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, p := range b.publishers {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, b.conn.Close())...)
}

// publisher returns that of a routing key.
func (b *brokerIngest) publisher(ctx context.Context, key string) (*rabbitmq.Publisher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.publishers[key]; p != nil {
		return p, nil
	}
	p, err := rabbitmq.NewPublisher(ctx, b.conn, rabbitmq.PublisherOptions{Name: "publish"})
	if err == nil {
		b.publishers[key] = p
	}
	return p, err
}

// unsharded is a routing key that names no shard.
const unsharded = "unsharded"

// Publish implements footfallv1.IngestServiceClient: it returns once the broker has confirmed
// every good event.
func (b *brokerIngest) Publish(ctx context.Context, batch *footfallv1.EventBatch, _ ...grpc.CallOption) (*footfallv1.PublishResponse, error) {
	answer := &footfallv1.PublishResponse{}
	byKey := map[string]*footfallv1.EventBatch{}
	var keys []string // in order of their first event
	for i, ev := range batch.GetEvents() {
		if fault := validate(ev); fault != nil {
			answer.Rejected = append(answer.Rejected, &footfallv1.Rejection{Index: uint32(i), EventId: ev.GetEventId(), Field: fault.Field, Reason: fault.Reason})
			continue
		}
		key := unsharded
		if b.shards > 0 {
			key = strconv.Itoa(messages.ShardOf(ev.GetCustomerId(), b.shards))
		}
		if byKey[key] == nil {
			byKey[key] = &footfallv1.EventBatch{}
			keys = append(keys, key)
		}
		byKey[key].Events = append(byKey[key].Events, ev)
		answer.Accepted++
	}
	var sent []*rabbitmq.Confirmation
	for _, key := range keys {
		body, err := byKey[key].MarshalVT()
		if err != nil {
			return nil, err
		}
		p, err := b.publisher(ctx, key)
		if err != nil {
			return nil, brokerStatus(err)
		}
		c, err := p.Publish(ctx, b.topology.EventsExchange(), key, amqp.Publishing{
			ContentType: messages.ContentProtobuf, Type: messages.TypeBatch, Body: body,
		})
		if err != nil {
			return nil, brokerStatus(err)
		}
		sent = append(sent, c)
	}
	for _, c := range sent {
		if err := c.Wait(ctx); err != nil {
			return nil, brokerStatus(err)
		}
	}
	return answer, nil
}

// brokerStatus tells what is worth another try from what is not, as a node would.
func brokerStatus(err error) error {
	var returned *rabbitmq.ReturnedError
	switch {
	case errors.As(err, &returned):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}
