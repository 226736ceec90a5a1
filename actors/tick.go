package actors

import (
	"context"
	"time"

	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// tickByWall appends the tick of yesterday once it has ended by the clock of the wall.
func (s *shard) tickByWall(now time.Time) {
	if s.fold.clock != footfallv1.ClockMode_CLOCK_MODE_WALL {
		return
	}
	yesterday := s.cal.DayOf(now) - 1
	if day, ok := s.ticked(); ok && day >= yesterday {
		return
	}
	s.noteTick(yesterday, true)
	life := s.life
	go func() {
		if err := s.appendTick(context.Background(), yesterday); err != nil {
			s.send(&failed{life, err})
		}
	}()
}

func (s *shard) appendTick(ctx context.Context, day int32) error {
	err := s.appendControl(ctx, &footfallv1.Control{
		Node: s.cfg.Node,
		Kind: &footfallv1.Control_Tick{Tick: &footfallv1.Tick{Date: behavior.FormatDate(day)}},
	})
	return err
}

// LastTick is the newest day whose tick was appended to a shard's log by this process or read in
// it, as "2017-01-31"; empty for none.
func (h *Host) LastTick(shard int) string {
	if day, ok := h.shards[shard].ticked(); ok {
		return behavior.FormatDate(day)
	}
	return ""
}

// CheckTime refuses an instant, in Unix milliseconds, that a fold would find too far in the
// future after the last day that ended, and returns the first such instant. Where none has ended,
// or the date is none, nothing is.
func CheckTime(cal *behavior.Calendar, lastTick string, timeMS int64) (limit int64, fault *messages.Fault) {
	day, err := behavior.ParseDate(lastTick)
	if err != nil {
		return 0, nil
	}
	limit = timeLimit(cal, day)
	return limit, checkTime(timeMS, limit, day)
}

const tickBias = 1 << 31

// noteTick remembers the newest tick that was appended or read. Any goroutine may call it.
func (s *shard) noteTick(day int32, ok bool) {
	if !ok {
		return
	}
	v := int64(day) + tickBias
	for {
		old := s.tickAppended.Load()
		if old >= v || s.tickAppended.CompareAndSwap(old, v) {
			return
		}
	}
}

// ticked is the newest day whose tick was appended or read. Any goroutine may call it.
func (s *shard) ticked() (day int32, ok bool) {
	v := s.tickAppended.Load()
	return int32(v - tickBias), v != 0
}
