package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// machine drives an Ownership by hand, at instants in milliseconds.
type machine struct {
	t *testing.T
	*Ownership
	t0 time.Time
}

func newMachine(t *testing.T, cfg OwnershipConfig) *machine {
	cfg.Name = "a"
	return &machine{t, NewOwnership(cfg), time.Unix(1000, 0)}
}

func (m *machine) at(ms int) time.Time { return m.t0.Add(time.Duration(ms) * time.Millisecond) }

// step expects commands, as one line.
func (m *machine) step(ms int, e Event, want string) {
	m.t.Helper()
	var got []string
	for _, c := range m.Step(m.at(ms), e) {
		got = append(got, c.String())
	}
	require.Equal(m.t, want, strings.Join(got, ", "), "%d ms, %T", ms, e)
}

func (m *machine) renewed(until ...int) LeaseRenewed {
	var e LeaseRenewed
	for _, ms := range until {
		if ms == 0 {
			e.Until = append(e.Until, time.Time{})
		} else {
			e.Until = append(e.Until, m.at(ms))
		}
	}
	return e
}

// active makes a member alone with all shards, its lease until 1500 ms.
func (m *machine) active() {
	m.Step(m.at(0), Ready{})
	m.Step(m.at(0), m.renewed(1500, 1500)) // one too many where there is one database
	m.Step(m.at(0), HeldRead{1, map[int]uint64{}})
	for s := range m.cfg.Shards {
		m.Step(m.at(1), Acquired{s, 7})
		m.Step(m.at(1), Activated{s})
	}
	require.Len(m.t, m.Owned(Active), m.cfg.Shards)
}

func members(states ...MemberState) MembersChanged {
	var e MembersChanged
	for i, s := range states {
		name := string(rune('a' + i))
		e.Members = append(e.Members, Member{Name: name, State: s, Roles: RoleShards, GRPC: name + ":1"})
	}
	return e
}

func TestOwnershipStart(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 2})
	m.step(0, Ready{}, "")
	m.step(1, m.renewed(1500), "verify, announce active, acquire 0, acquire 1")
	m.step(2, Acquired{0, 1}, "")
	m.step(3, Refused{1, "b", time.Second}, "")
	require.True(t, m.Locate(0, m.at(3)).Coming)
	require.Equal(t, "active acquiring=1 recovering=0", m.String())
	m.step(4, Activated{0}, "")
	require.True(t, m.Locate(0, m.at(4)).Here)
	require.False(t, m.Locate(0, m.at(1500)).Here, "outside the lease, though nothing has happened")
	require.True(t, m.Locate(1, m.at(4)).Coming, "b is not there: its lease will end")

	// Its lease has a second to go; only then another try.
	m.step(900, Ticked{}, "")
	m.step(1100, Ticked{}, "acquire 1")
}

// Invariant 4: a renewal whose answer comes after the lease before has ended proves nothing about
// what was in between.
func TestOwnershipLapse(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 3})
	m.active()
	m.step(1600, m.renewed(2900), "lease lapsed, verify")
	require.False(t, m.Locate(0, m.at(1600)).Here)
	m.step(1650, Refused{0, "b", 0}, "") // late, of no meaning
	m.step(1700, HeldRead{1, map[int]uint64{0: 7, 1: 7, 2: 7}}, "")
	require.False(t, m.Locate(0, m.at(1700)).Here, "that was the answer to an older question")
	m.step(1800, HeldRead{2, map[int]uint64{0: 7, 1: 8}}, "drop 1, drop 2, lease restored, acquire 1, acquire 2")
	require.True(t, m.Locate(0, m.at(1800)).Here)

	// Shard 1 was asked for before a lapse and answered after it: it counts once confirmed.
	m.step(3000, Ticked{}, "lease lapsed")
	m.step(3010, m.renewed(4500), "verify")
	m.step(3020, Acquired{1, 9}, "")
	m.step(3030, HeldRead{3, map[int]uint64{0: 7, 1: 9}}, "lease restored")
	m.step(3040, Activated{1}, "")
	require.False(t, m.Locate(1, m.at(3040)).Here)
	m.step(3500, m.renewed(5000), "verify")
	m.step(3510, HeldRead{4, nil}, "")
	m.step(4000, m.renewed(5500), "verify")
	m.step(4010, HeldRead{5, map[int]uint64{0: 7, 1: 9}}, "")
	require.True(t, m.Locate(1, m.at(4010)).Here)
}

// Of two databases one is away: only its shards are not answered for.
func TestOwnershipDatabases(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 4, Databases: 2})
	m.active()
	m.step(1000, m.renewed(0, 2500), "")
	m.step(1600, Ticked{}, "lease lapsed")
	here := func(ms int) (out string) {
		for s := range 4 {
			if m.Locate(s, m.at(ms)).Here {
				out += fmt.Sprint(s)
			}
		}
		return out
	}
	require.Equal(t, "13", here(1600))
	m.step(2000, m.renewed(3500, 3500), "verify")
	m.step(2010, HeldRead{2, map[int]uint64{0: 7, 1: 7, 2: 7, 3: 7}}, "lease restored")
	require.Equal(t, "0123", here(2010))
	m.step(3600, Ticked{}, "lease lapsed, lease lapsed in database 1")
}

// Invariant 5: what the store may have is let go, even where nobody here knows of it.
func TestOwnershipLetsGoWhatItMayHave(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 1})
	m.step(0, Ready{}, "")
	m.step(0, m.renewed(1500), "verify, announce active, acquire 0")
	m.step(10, HeldRead{1, map[int]uint64{0: 3}}, "") // being acquired: no reason to act
	m.step(20, ShardFailed{Shard: 0}, "")             // the answer was lost
	m.step(30, DrainAsked{}, "announce draining, drain 0")
	m.step(40, ShardFailed{Shard: 0}, "")
	m.step(500, Ticked{}, "drain 0")
	m.step(510, Released{0}, "drained")
	m.step(520, m.renewed(2000), "")
	m.step(530, DrainAsked{}, "")

	// And what an answer of the store brings to light.
	m = newMachine(t, OwnershipConfig{Shards: 1, NoShards: true})
	m.step(0, m.renewed(1500), "verify")
	m.step(10, HeldRead{1, map[int]uint64{0: 3}}, "drain 0")
}

func TestOwnershipFailure(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 2})
	m.active()
	m.step(10, ShardFailed{Shard: 0}, "")
	m.step(100, Ticked{}, "")
	m.step(300, Ticked{}, "acquire 0")
	m.step(310, Acquired{0, 8}, "")
	m.step(320, ShardFailed{Shard: 0, ForGood: true}, "")
	m.step(1400, Ticked{}, "")
	require.Equal(t, "active active=1 failed=0", m.String())
	m.step(1410, SteppedDown{1}, "acquire 1")
	m.step(1420, ShardFailed{Shard: 9}, "")
	m.step(1430, LeaseLost{}, "drop 0, drop 1")
	require.Equal(t, "active acquiring=0-1", m.String(), "without a lease nothing is asked for")
}

// Invariant 6, and the order of a leave: the others serve until it is their turn.
func TestOwnershipHandOff(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 4, MaxDraining: 1})
	m.active()
	m.step(10, members(MemberActive, MemberActive), "drain 1")
	require.Equal(t, "b", m.Locate(1, m.at(10)).Owner)
	require.Equal(t, "b:1", m.Locate(1, m.at(10)).Address)
	require.True(t, m.Locate(2, m.at(10)).Here)
	m.step(20, Released{1}, "tell b of 1, drain 2")
	m.step(30, SteppedDown{2}, "")
	require.Equal(t, "active active=0,3", m.String())

	// b goes: it lets its shards go first, and this node waits for them to be told.
	m.step(40, members(MemberActive, MemberDraining), "acquire 1, acquire 2")
	m.step(50, ReleasedElsewhere{1}, "")
	m.step(60, Refused{1, "b", 0}, "acquire 1") // the word came while it was asked for
	m.step(70, Refused{2, "b", 0}, "")
	require.Equal(t, "b", m.Locate(2, m.at(70)).Owner, "b has it, and serves until it drains")
	m.step(80, ReleasedElsewhere{2}, "acquire 2")
}

func TestOwnershipAsksInPortions(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 5, AcquiresPerTick: 2})
	m.step(0, Ready{}, "")
	m.step(0, m.renewed(1500), "verify, announce active, acquire 0, acquire 1")
	m.step(50, Ticked{}, "acquire 2, acquire 3")
	m.step(100, Ticked{}, "acquire 4")
}

// A shard that is to be handed over may be answered for as long as the lease holds, until it is
// released; nobody is told that it is here.
func TestLeaving(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 2})
	m.active()
	m.step(10, DrainAsked{}, "announce draining, drain 0, drain 1")
	l := m.Locate(0, m.at(20))
	require.True(t, l.Leaving)
	require.False(t, l.Here)
	require.False(t, l.Coming)
	require.Error(t, l.Err())
	require.False(t, m.Locate(0, m.at(1500)).Leaving, "outside the lease")
	m.step(30, Released{0}, "")
	require.False(t, m.Locate(0, m.at(40)).Leaving)
	m.step(1600, Ticked{}, "lease lapsed")
	m.step(1700, m.renewed(3200), "verify")
	require.False(t, m.Locate(1, m.at(1800)).Leaving, "another may have taken it since")
}

// A shard is with its old owner until that has told that it is released: from then on it comes here.
func TestOwnershipHint(t *testing.T) {
	m := newMachine(t, OwnershipConfig{Shards: 2})
	m.step(0, members(MemberActive, MemberActive), "")
	m.step(0, Ready{}, "")
	m.step(1, m.renewed(1500), "verify, announce active, acquire 0")
	m.step(2, Refused{0, "b", time.Second}, "")
	require.Equal(t, "b", m.Locate(0, m.at(2)).Owner)
	m.step(3, ReleasedElsewhere{0}, "acquire 0")
	l := m.Locate(0, m.at(3))
	require.True(t, l.Coming)
	require.Equal(t, "a", l.Owner)
	m.step(4, Refused{0, "b", time.Second}, "") // the word was early, or b has it again
	require.Equal(t, "b", m.Locate(0, m.at(4)).Owner)
}
