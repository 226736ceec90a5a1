package actors

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// countedLog counts readers, those that were opened and those that are open.
type countedLog struct {
	*memLog
	opened, open atomic.Int32
	prepared     atomic.Int32
}

func (l *countedLog) Prepare(context.Context, int) error {
	l.prepared.Add(1)
	return nil
}

func (l *countedLog) Open(ctx context.Context, shard int, at messages.Mark) (Reader, error) {
	r, err := l.memLog.Open(ctx, shard, at)
	if err == nil {
		l.opened.Add(1)
		l.open.Add(1)
		r = &countedReader{r, l}
	}
	return r, err
}

type countedReader struct {
	Reader
	log *countedLog
}

func (r *countedReader) Close() error {
	r.log.open.Add(-1)
	return r.Reader.Close()
}

// TestPrepare hands a shard from one host to another, which was prepared with several marks.
func TestPrepare(t *testing.T) {
	type given func(saved, last messages.Mark) messages.Mark
	for _, tt := range []struct {
		name string
		mark given
		more int // events after the checkpoint before the last
		// forgotten: what was prepared is given back before the shard is opened.
		forgotten bool
		opened    int32
	}{
		{"where it was", func(_, last messages.Mark) messages.Mark { return last }, 0, false, 1},
		{"some records before", func(saved, _ messages.Mark) messages.Mark { return saved }, 3, false, 1},
		{"some batches before", func(saved, _ messages.Mark) messages.Mark { return saved }, 100, false, 1},
		{"from the beginning", func(messages.Mark, messages.Mark) messages.Mark { return messages.Mark{} }, 3, false, 1},
		{"another checksum", func(_, last messages.Mark) messages.Mark { return messages.Mark{Next: last.Next, Sum: last.Sum + 1} }, 0, false, 2},
		{"after it", func(_, last messages.Mark) messages.Mark { return messages.Mark{Next: last.Next + 1} }, 1, false, 2},
		{"forgotten", func(saved, _ messages.Mark) messages.Mark { return saved }, 3, true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				shard := messages.ShardOf("900", 4)
				var heard told
				old, err := NewHost(b.cfg, b.log, b.store, nil)
				require.NoError(t, err)
				old.Begin()
				old.Open(shard, heard.hear)
				require.Equal(t, []string{"recovering 1", "active 1"}, heard.heard())
				b.host = old
				count := 0
				publish := func(n int) {
					for range n {
						count++
						b.publish(purchase("900", fmt.Sprintf("b-%d", count), day1, "1.00"))
					}
					synctest.Wait()
				}
				publish(2)
				require.NoError(t, old.CheckpointShard(t.Context(), shard))
				synctest.Wait()
				saved := old.Saved(shard)
				require.Positive(t, saved.Next)
				publish(tt.more)
				last := messages.Mark{Next: uint64(len(b.log.shards[shard])), Sum: b.log.shards[shard][len(b.log.shards[shard])-1].Sum}
				old.Close(shard, 1, heard.hear)
				require.Equal(t, []string{"idle 1"}, heard.heard())
				require.Equal(t, last.Next, b.store.metas[shard].GetNextOffset())
				require.NoError(t, old.Stop(t.Context()))
				_ = heard.heard()

				publish(1) // for the next owner to read
				log := &countedLog{memLog: b.log}
				next, err := NewHost(b.cfg, log, b.store, nil)
				require.NoError(t, err)
				next.Begin()
				require.NoError(t, next.Prepare(t.Context(), shard, tt.mark(saved, last)))
				require.EqualValues(t, 1, log.prepared.Load())
				if tt.forgotten {
					next.Forget(shard)
					require.Zero(t, log.open.Load())
				}
				next.Open(shard, heard.hear)
				require.Equal(t, []string{"recovering 2", "active 2"}, heard.heard())
				require.Equal(t, tt.opened, log.opened.Load())
				b.host = next
				a, err := next.Ask(t.Context(), "900")
				require.NoError(t, err)
				require.EqualValues(t, count, a.Record.Lifetime().Purchases, "each once")

				// What nobody took is given back at the end.
				require.NoError(t, next.Prepare(t.Context(), (shard+1)%4, messages.Mark{}))
				require.EqualValues(t, 2, log.open.Load())
				require.NoError(t, next.Stop(t.Context()))
				require.Zero(t, log.open.Load())
				require.NoError(t, next.Prepare(t.Context(), shard, messages.Mark{}))
				require.Zero(t, log.open.Load(), "after the end nothing is kept")
			})
		})
	}
}
