package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"footfall/actors"
	"footfall/cluster"
	"footfall/messages"
	"footfall/node/access"
)

// Cluster is what the services need of the other nodes. A node on its own has none.
type Cluster interface {
	// Locate tells where a shard is now, Wait once it is here or is not coming here.
	Locate(shard int) cluster.Location
	Wait(ctx context.Context, shard int) (cluster.Location, error)
	// Members are those who are there, this one too; Owners those that should own the shards.
	Members() []cluster.Member
	Owners() []string
	// Conn is the connection to another node's gRPC API. It does not wait for it.
	Conn(address string) (grpc.ClientConnInterface, error)
	// Stale is how long this node has not been sure of a shard that runs here.
	Stale(shard int) time.Duration
	// Prepare gets ready to take a shard over that its owner is about to release, with a mark to read on from.
	Prepare(ctx context.Context, shard int, at messages.Mark) error
	// DrainForGood has this node hand over its shards, give up its place, and end.
	DrainForGood()
}

// router takes calls to the owner of their shard.
//
//	            here, or leaving: answer, and still so? ──► the answer
//	locate ──┬─ coming here: wait for it
//	   ▲     ├─ failed here: the answer says why
//	   │     ├─ with another, and nobody passed it on yet ──► ask it ──► its answer
//	   │     └─ else: not the owner
//	   └──── it moved, or its owner is gone: again, until the deadline
//
// Invariants:
//  1. A call is passed on once: whoever gets it answers, or names who might.
//  2. An answer was the owner's still when it was made: a process that slept in between, and
//     lost its lease, answers nothing.
type router struct {
	Cluster
	name string
}

// answers reports whether this node is sure of a shard. Whether it runs, the host knows.
func (r *router) answers(shard int) bool {
	l := r.Locate(shard)
	return l.Here || l.Leaving
}

// forwardedKey marks a call that a node has passed on, with the name of that node.
const forwardedKey = access.ForwardedKey

// forwarded reports whether another node has passed a call on.
func forwarded(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, forwardedKey)) > 0
}

// passOn is the context of a call to another node. It keeps the deadline.
func (r *router) passOn(ctx context.Context) context.Context { return PassOn(ctx, r.name) }

// PassOn is the context of a call that a node makes to another, which answers for itself alone. It keeps the deadline.
func PassOn(ctx context.Context, node string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(forwardedKey, node))
}

// pauseLeast and pauseMost bound the time between two looks for an owner.
const (
	pauseLeast = 10 * time.Millisecond
	pauseMost  = 50 * time.Millisecond
)

// route answers a call for a shard where its owner is: by here on this node, by there through the
// connection to another. Both may be called more than once. A node on its own is always the owner.
func route[T any](ctx context.Context, r *router, shard int, here func(context.Context) (T, error), there func(context.Context, grpc.ClientConnInterface) (T, error)) (T, error) {
	if r == nil {
		return here(ctx)
	}
	var none T
	last := forwarded(ctx)
	pause := pauseLeast
	for l := r.Locate(shard); ; {
		switch {
		case l.Here || l.Leaving:
			v, err := here(ctx)
			if err != nil && !moved(err) || err == nil && r.answers(shard) {
				return v, err
			}
			pause = pauseLeast // it is gone within moments
		case l.Coming:
			next, err := r.wait(ctx, shard, last)
			if err != nil {
				return none, err
			}
			l = next
			continue
		case l.State == cluster.Failed && l.Owner == r.name:
			return here(ctx)
		case last:
			return none, l.Err()
		case l.Owner != r.name && l.Address != "":
			conn, err := r.Conn(l.Address)
			if err != nil {
				return none, err
			}
			noteForwarded(ctx)
			v, err := there(r.passOn(ctx), conn)
			owner, again := notAnswered(ctx, err)
			if !again {
				return v, err
			}
			// A hand-off names the old owner until it has drained.
			if owner.Owner != "" && owner.Owner != r.name && owner.Owner != l.Owner && owner.Address != "" {
				l = cluster.Location{Shard: shard, Owner: owner.Owner, Address: owner.Address}
				if conn, err = r.Conn(l.Address); err == nil {
					v, err = there(r.passOn(ctx), conn)
					if _, again = notAnswered(ctx, err); !again {
						return v, err
					}
				}
			}
		}
		if err := rest(ctx, pause); err != nil {
			return none, notServed(shard, err)
		}
		pause = min(2*pause, pauseMost)
		l = r.Locate(shard)
	}
}

// waitForwarded bounds how long a call that was passed on waits for a shard to be here: it may be
// that this node does not get through to the store, and another has the shard by now.
const waitForwarded = time.Second

// wait returns once the shard is here or is not coming here. A call that was passed on waits for a
// while, and goes back to who passed it on: that one looks again.
func (r *router) wait(ctx context.Context, shard int, last bool) (cluster.Location, error) {
	patience := ctx
	if last {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, waitForwarded)
		defer cancel()
	}
	l, err := r.Wait(patience, shard)
	switch {
	case err == nil:
		return l, nil
	case ctx.Err() == nil:
		return l, l.Err()
	default:
		return l, notServed(shard, err)
	}
}

// moved reports whether an error says that the shard is not served here any more.
func moved(err error) bool {
	var (
		notActive *actors.NotActiveError
		stale     *messages.StaleEpochError
		notOwner  *cluster.NotOwnerError
	)
	return errors.As(err, &notActive) || errors.As(err, &stale) || errors.As(err, &notOwner)
}

// notAnswered reports whether another node has not answered a call, so that it may be asked
// again, and whom it holds to be the owner.
func notAnswered(ctx context.Context, err error) (owner cluster.NotOwnerError, again bool) {
	if err == nil || ctx.Err() != nil {
		return owner, false
	}
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == notOwnerReason {
			return cluster.NotOwnerError{Owner: info.GetMetadata()["owner"], Address: info.GetMetadata()["address"]}, true
		}
	}
	switch s.Code() {
	case codes.Unavailable: // gRPC's own has no details: the node cannot be reached, or is going
		return owner, len(s.Details()) == 0
	case codes.Canceled: // the connection was closed since the node has gone
		return owner, true
	default:
		return owner, false
	}
}

// notOwnerReason and errorDomain name the detail of a call that came to another than the owner.
const (
	notOwnerReason = "NOT_OWNER"
	errorDomain    = "footfall"
)

func notOwnerDetail(e *cluster.NotOwnerError) protoadapt.MessageV1 {
	return &errdetails.ErrorInfo{Reason: notOwnerReason, Domain: errorDomain, Metadata: map[string]string{
		"shard": strconv.Itoa(e.Shard), "owner": e.Owner, "address": e.Address,
	}}
}

// notServed says that nobody served a shard until the deadline.
func notServed(shard int, err error) error {
	return fmt.Errorf("shard %d was served by nobody: %w", shard, err)
}

// rest waits, unless ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// others asks all other members at once for something of their own, and returns the answers by
// name. Those that do not answer within patience are missing.
func others[T any](ctx context.Context, r *router, patience time.Duration, ask func(context.Context, grpc.ClientConnInterface) (T, error)) map[string]T {
	ctx, cancel := context.WithTimeout(r.passOn(ctx), patience)
	defer cancel()
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out = map[string]T{}
	)
	for _, m := range r.Members() {
		if m.Name == r.name || m.GRPC == "" {
			continue
		}
		wg.Go(func() {
			conn, err := r.Conn(m.GRPC)
			if err != nil {
				return
			}
			v, err := ask(ctx, conn)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[m.Name] = v
		})
	}
	wg.Wait()
	return out
}

// whereKey is the context's key of where a query is answered.
type whereKey struct{}

// withWhere has a context remember whether its query is answered by another node.
func withWhere(ctx context.Context) (_ context.Context, elsewhere *atomic.Bool) {
	elsewhere = new(atomic.Bool)
	return context.WithValue(ctx, whereKey{}, elsewhere), elsewhere
}

// noteForwarded notes that another node answers a query, or a part of it.
func noteForwarded(ctx context.Context) {
	if p, ok := ctx.Value(whereKey{}).(*atomic.Bool); ok {
		p.Store(true)
	}
}
