package postgresstore

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// TestAcquireFromStuckOwner has an owner go silent in the middle of a checkpoint: its server has
// half of a statement, holds the shard's row for it, and waits for the rest for as long as the connection stands.
// Whoever takes the shard after the lease has lapsed must not wait for that.
func TestAcquireFromStuckOwner(t *testing.T) {
	addr := newDatabase(t)
	p, through := newProxy(t, addr, func(fromClient bool, piece []byte) verdict {
		if fromClient && bytes.Contains(piece, []byte("INSERT INTO footfall_customers")) {
			return holdHalf
		}
		return pass
	})
	t.Cleanup(p.letGo)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := open(t, Options{}, through), open(t, Options{}, addr)
	_, err := a.Renew(ctx, "a", "1", time.Second)
	require.NoError(t, err)
	_, err = b.Renew(ctx, "b", "1", time.Hour)
	require.NoError(t, err)
	epoch, err := a.Acquire(ctx, 1, "a")
	require.NoError(t, err)
	saving, stop := context.WithCancel(ctx)
	saved := make(chan error, 1)
	go func() {
		saved <- a.Checkpoint(saving, &messages.Checkpoint{
			Shard: 1, Epoch: epoch, Meta: &footfallv1.CheckpointMeta{NextOffset: 1},
			Customers: []messages.CustomerRecord{{ID: "c", Value: []byte("value")}},
		})
	}()
	require.NoError(t, local.Await(ctx, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.held) == 0 {
			return errors.New("nothing is held")
		}
		return nil
	}))
	// Its lease holds: nobody is ended for one who only asks.
	_, err = b.Acquire(ctx, 1, "b")
	var held *messages.HeldError
	require.ErrorAs(t, err, &held)

	taking, done := context.WithTimeout(ctx, 12*time.Second) // long before anything else would end the wait
	defer done()
	var next uint64
	require.NoError(t, local.Await(taking, func(ctx context.Context) (err error) {
		next, err = b.Acquire(ctx, 1, "b")
		return err
	}))
	require.Equal(t, epoch+1, next)
	meta, err := b.Load(ctx, 1, next)
	require.NoError(t, err)
	require.Nil(t, meta, "half a checkpoint")
	stop()
	require.Error(t, <-saved)
}
