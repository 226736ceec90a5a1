package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// step does what a line says: "canary 2 .1", "shadow 2 1", "enter 3", "promote", "promote 2", "rollback", "refuse 2".
func step(s State, line string) (State, error) {
	f := append(strings.Fields(line), "", "")
	by := By{Node: "n", At: day, Reason: f[0]}
	number := func(text string) float64 { v, _ := strconv.ParseFloat(text, 64); return v }
	switch f[0] {
	case "canary", "shadow":
		return s.Try(f[1], Mode(f[0]), number(f[2]), Limits{}, by)
	case "enter":
		return s.Enter(int(number(f[1])), .05, Limits{}, by)
	case "promote":
		return s.Promote(f[1], by)
	case "rollback":
		return s.Rollback(by)
	case "refuse":
		return s.Refuse(f[1], by)
	}
	return s, fmt.Errorf("there is no step %q", line)
}

// said is a state in a line.
func said(s State) string {
	text := "champion " + s.Champion
	if s.Previous != "" {
		text += ", before it " + s.Previous
	}
	if c := s.Challenger; c != nil {
		text += fmt.Sprintf(", %s %s %g", c.Mode, c.Version, c.Share)
	}
	for _, r := range s.Refused {
		text += ", not " + r.Version
	}
	return text
}

func TestScenarios(t *testing.T) {
	for name, lines := range map[string][][2]string{
		"a canary that grows and is promoted": {
			{"canary 2 .1", "champion 1, canary 2 0.1"},
			{"canary 2 .5", "champion 1, canary 2 0.5"},
			{"promote", "champion 2, before it 1"},
		},
		"a shadow becomes a canary": {
			{"shadow 2 1", "champion 1, shadow 2 1"},
			{"canary 2 .2", "champion 1, canary 2 0.2"},
			{"rollback", "champion 1, not 2"},
		},
		"back to the one before, once": {
			{"promote 3", "champion 3, before it 1"},
			{"rollback", "champion 1, not 3"},
			{"rollback", "error: m: nothing is tried, and no version served before 1"},
		},
		"a trial is ended before the champion is": {
			{"promote 2", "champion 2, before it 1"},
			{"canary 3 .1", "champion 2, before it 1, canary 3 0.1"},
			{"rollback", "champion 2, before it 1, not 3"},
			{"rollback", "champion 1, not 2, not 3"},
		},
		"one trial at a time": {
			{"canary 2 .1", "champion 1, canary 2 0.1"},
			{"canary 3 .1", "error: m: version 2 is tried (canary): promote it or roll it back first"},
			{"promote 3", "error: m: version 2 is tried (canary): promote it or roll it back first"},
			{"enter 3", "error: m: version 2 is tried"},
		},
		"a version enters by itself once": {
			{"enter 2", "champion 1, canary 2 0.05"},
			{"rollback", "champion 1, not 2"},
			{"enter 2", "error: m: version 2 is not above 2"},
			{"enter 3", "champion 1, canary 3 0.05, not 2"},
			{"promote", "champion 3, before it 1, not 2"},
			{"canary 2 .1", "champion 3, before it 1, canary 2 0.1"},
		},
		"what can't be loaded": {
			{"canary 2 .1", "champion 1, canary 2 0.1"},
			{"refuse 1", "error: m: version 1 is neither tried nor newly promoted"},
			{"refuse 2", "champion 1, not 2"},
			{"promote 3", "champion 3, before it 1, not 2"},
			{"refuse 3", "champion 1, not 3, not 2"},
			{"refuse 1", "error: m: version 1 is neither tried nor newly promoted"},
		},
		"what makes no sense": {
			{"canary 1 .1", "error: m: version 1 serves already"},
			{"promote 1", "error: m: version 1 serves already"},
			{"promote", "error: m: no version is tried: name the one to promote"},
			{"canary 2 1", "error: m: a share of 1 is not between 0 and 1: all customers get a version that is promoted"},
			{"canary 2 0", "error: m: a share of 0 is not between 0 and 1: all customers get a version that is promoted"},
			{"shadow 2 1.5", "error: m: a share of 1.5 is not between 0 and 1: all customers get a version that is promoted"},
			{"rollback", "error: m: nothing is tried, and no version served before 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := First("m", "1", By{At: day})
			for _, line := range lines {
				next, err := step(s, line[0])
				if err != nil {
					require.Equal(t, line[1], "error: "+err.Error(), line[0])
					require.Equal(t, s, next, "an error changes nothing")
					continue
				}
				s = next
				require.Equal(t, line[1], said(s), line[0])
			}
		})
	}
}

// Whatever is asked for in whatever order, a state keeps its invariants and comes back from the store as it was.
func TestStatesKeepTheirInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := First("m", "1", By{At: day})
		entered := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			action := rapid.SampledFrom([]string{"canary", "shadow", "enter", "promote", "rollback", "refuse"}).Draw(t, "action")
			version := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "version")
			line := action + " " + version
			if action == "canary" || action == "shadow" {
				line += fmt.Sprintf(" %g", rapid.SampledFrom([]float64{.01, .5, 1}).Draw(t, "share"))
			}
			before, was := said(s), s
			next, err := step(s, line)
			require.Equal(t, before, said(was), "what was is not touched")
			if err != nil {
				continue
			}
			if action == "enter" {
				require.False(t, entered[version], "a version enters by itself once")
				entered[version] = true
			}
			s = next
			require.NotEmpty(t, s.Champion)
			require.NotEqual(t, s.Champion, s.Previous)
			if s.Challenger != nil {
				require.NotEqual(t, s.Champion, s.Challenger.Version)
			}
			_, refused := s.Refusal(s.Champion)
			require.False(t, refused && s.Champion != "1", "who serves was promoted, and with that forgiven")
			require.LessOrEqual(t, len(s.Events), maxEvents)
			require.True(t, slices.IsSortedFunc(s.Events, func(a, b Event) int { return b.At.Compare(a.At) }))
			body, err := s.Encode()
			require.NoError(t, err)
			again, err := Decode("m", 7, body)
			require.NoError(t, err)
			s.Generation, s.Format = 7, format
			require.Equal(t, s, again)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for _, body := range []string{``, `[]`, `{"format":2}`, `{"format":1,"challenger":{"version":"2","mode":"x","share":0.1}}`, `{"format":1,"challenger":{"version":"2","mode":"canary","share":0}}`} {
		_, err := Decode("m", 3, []byte(body))
		require.ErrorContains(t, err, "roll-out of m, generation 3: ", body)
	}
}

func FuzzDecode(f *testing.F) {
	s, _ := step(First("m", "1", By{At: day}), "canary 2 .1")
	body, err := s.Encode()
	require.NoError(f, err)
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := Decode("m", 1, body)
		if err != nil {
			return
		}
		text, err := s.Encode()
		require.NoError(t, err)
		again, err := Decode("m", 1, text)
		require.NoError(t, err)
		require.Equal(t, said(s), said(again))
	})
}
