package actors

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/messages"
)

// modelTurns is what turns do, said as plainly as can be.
type modelTurns struct {
	underWay   int
	asked, due []int
}

func (m *modelTurns) next() (begun []int) {
	for {
		switch {
		case len(m.asked) > 0 && m.underWay < mostWritten:
			begun, m.asked = append(begun, m.asked[0]), m.asked[1:]
		case len(m.due) > 0 && m.underWay < mostDue:
			begun, m.due = append(begun, m.due[0]), m.due[1:]
		default:
			return begun
		}
		m.underWay++
	}
}

func TestTurnsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		databases := rapid.IntRange(1, 2).Draw(t, "databases")
		turns, models := newTurns(databases), make([]modelTurns, databases)
		var (
			all     []*turn
			waiting = map[int]bool{}
			begun   []int // told, or answered, since the last step
		)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			begun = nil
			var (
				d    int
				want []int
			)
			pick := func(of func(i int) bool) (i int, ok bool) {
				var can []int
				for i := range all {
					if of(i) {
						can = append(can, i)
					}
				}
				if len(can) == 0 {
					return 0, false
				}
				return rapid.SampledFrom(can).Draw(t, "turn"), true
			}
			answered := func(i int, begins bool) {
				if begins {
					begun = append(begun, i)
				}
			}
			switch rapid.SampledFrom([]string{"take", "take", "end", "hurry", "withdraw"}).Draw(t, "step") {
			case "take":
				i := len(all)
				d = rapid.IntRange(0, databases-1).Draw(t, "database")
				w := &turn{database: d, asked: rapid.Bool().Draw(t, "asked"), begins: func(*turn) { begun = append(begun, i) }}
				all = append(all, w)
				waiting[i] = true
				m := &models[d]
				if w.asked {
					m.asked = append(m.asked, i)
				} else {
					m.due = append(m.due, i)
				}
				want = m.next()
				answered(i, turns.take(w))
			case "end":
				i, ok := pick(func(i int) bool { return all[i] != nil && !waiting[i] })
				if !ok {
					continue
				}
				d = all[i].database
				models[d].underWay--
				want = models[d].next()
				turns.end(all[i])
				all[i] = nil
			case "hurry":
				i, ok := pick(func(i int) bool { return waiting[i] })
				if !ok {
					continue
				}
				d = all[i].database
				m := &models[d]
				if at := slices.Index(m.due, i); at >= 0 {
					m.due = slices.Delete(m.due, at, at+1)
					m.asked = append(m.asked, i)
				}
				want = m.next()
				answered(i, turns.hurry(all[i]))
			case "withdraw":
				i, ok := pick(func(i int) bool { return waiting[i] })
				if !ok {
					continue
				}
				d = all[i].database
				m := &models[d]
				of := func(j int) bool { return j == i }
				m.asked, m.due = slices.DeleteFunc(m.asked, of), slices.DeleteFunc(m.due, of)
				turns.end(all[i])
				all[i] = nil
				delete(waiting, i)
			}
			slices.Sort(want)
			slices.Sort(begun)
			require.Equal(t, want, begun)
			for _, i := range begun {
				delete(waiting, i)
			}
			require.LessOrEqual(t, turns.queues[d].underWay, mostWritten)
			require.Equal(t, models[d].underWay, turns.queues[d].underWay)
		}
	})
}

// heldCheckpoints holds the checkpoints of a store up until a test lets each go on.
type heldCheckpoints struct {
	began chan int
	goOn  []chan error
}

func holdCheckpoints(store *memStore, shards int) *heldCheckpoints {
	h := &heldCheckpoints{began: make(chan int, shards)}
	for range shards {
		h.goOn = append(h.goOn, make(chan error))
	}
	store.fault = func(c *messages.Checkpoint) error {
		h.began <- c.Shard
		return <-h.goOn[c.Shard]
	}
	return h
}

// since are the shards that have begun to write since it was asked last, once all has come to rest.
func (h *heldCheckpoints) since() (shards []int) {
	synctest.Wait()
	for len(h.began) > 0 {
		shards = append(shards, <-h.began)
	}
	slices.Sort(shards)
	return shards
}

// TestFewCheckpointsAtOnce has the checkpoints of all shards be due while the store takes its time.
func TestFewCheckpointsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shards = 16
		b := newBench(t, nil)
		b.cfg.Shards = shards
		held := holdCheckpoints(b.store, shards)
		b.start()
		customers := make([]string, shards)
		for i := range customers {
			customers[i] = customerOfShard(i, shards)
			b.publish(purchase(customers[i], "1", day1, "1.00"))
		}
		<-time.After(b.cfg.CheckpointEvery)
		writing := held.since()
		require.Len(t, writing, mostDue)
		waiting := func() (out []int) {
			for i := range shards {
				if !slices.Contains(writing, i) {
					out = append(out, i)
				}
			}
			return out
		}()

		// Somebody waits for one that stands in the queue, and for one that is as good as the last.
		asked := []int{waiting[3], waiting[len(waiting)-1]}
		saved := make(chan error, len(asked))
		for _, i := range asked {
			go func() { saved <- b.host.CheckpointShard(t.Context(), i) }()
		}
		require.Equal(t, asked, held.since())
		for _, i := range asked {
			held.goOn[i] <- nil
			require.NoError(t, <-saved)
		}
		require.Empty(t, held.since(), "those that are due go on waiting")

		// What changes while a shard waits is in what it writes.
		late := waiting[0]
		b.publish(purchase(customers[late], "2", day1, "1.00"))
		synctest.Wait()
		next := b.host.Status()[late].Next

		// One that fails leaves its turn to the others, too; as does one that nobody needs any more.
		b.host.Drop(waiting[1])
		held.goOn[writing[0]] <- errors.New("the disk is full")
		writing = append(writing[1:], held.since()...)
		require.Len(t, writing, mostDue)
		wrote := 0
		for len(writing) > 0 {
			held.goOn[writing[0]] <- nil
			wrote++
			writing = append(writing[1:], held.since()...)
			require.LessOrEqual(t, len(writing), mostDue)
		}
		require.Equal(t, shards-len(asked)-2, wrote, "all but those that were asked for, that failed, that was dropped")
		require.Equal(t, next, b.store.metas[late].GetNextOffset())

		b.store.fault = nil
		b.stop()
	})
}

// A database that is away holds up no checkpoint of another one.
func TestCheckpointsOfAnotherDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shards = 16
		b := newBench(t, nil)
		b.cfg.Shards, b.cfg.Databases = shards, 2
		held := holdCheckpoints(b.store, shards)
		b.start()
		for i := range shards {
			b.publish(purchase(customerOfShard(i, shards), "1", day1, "1.00"))
		}
		<-time.After(b.cfg.CheckpointEvery)
		writing := held.since()
		require.Len(t, writing, 2*mostDue)
		for left := shards / 2; left > 0; left-- { // those of the second go on
			at := slices.IndexFunc(writing, func(i int) bool { return i%2 == 1 })
			require.GreaterOrEqual(t, at, 0)
			held.goOn[writing[at]] <- nil
			writing = append(slices.Delete(writing, at, at+1), held.since()...)
		}
		require.Len(t, writing, mostDue)
		b.store.fault = nil
		for _, i := range writing {
			held.goOn[i] <- nil
		}
		b.stop()
	})
}

func customerOfShard(shard, shards int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprintf("c%d", i); messages.ShardOf(id, shards) == shard {
			return id
		}
	}
}
