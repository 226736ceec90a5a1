package messages

import (
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParseMoney(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "0.50": 5_000, "12": 120_000, "3.1415": 31_415, "-1.5": -15_000, "-0": 0, "007.10": 71_000, "0.0001": 1,
		"1000000000": MaxMoney, "1000000000.0000": MaxMoney, "-1000000000.0": -MaxMoney, "999999999.9999": MaxMoney - 1,
		"000000000000000001": 10_000,
	} {
		got, err := ParseMoney(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]error{
		"": ErrMoneySyntax, "-": ErrMoneySyntax, ".": ErrMoneySyntax, ".5": ErrMoneySyntax, "5.": ErrMoneySyntax, "+1": ErrMoneySyntax,
		" 1": ErrMoneySyntax, "1 ": ErrMoneySyntax, "1e3": ErrMoneySyntax, "1,50": ErrMoneySyntax, "1.2.3": ErrMoneySyntax, "--1": ErrMoneySyntax,
		"0x10": ErrMoneySyntax, "NaN": ErrMoneySyntax, "Inf": ErrMoneySyntax, "$1": ErrMoneySyntax, "1.00000x": ErrMoneySyntax, "١": ErrMoneySyntax,
		"0.00001": ErrMoneyDecimals, "1.00000": ErrMoneyDecimals, "-12.34567": ErrMoneyDecimals,
		"1000000000.0001": ErrMoneyRange, "1000000001": ErrMoneyRange, "99999999999999999999999": ErrMoneyRange,
		"18446744073709551616": ErrMoneyRange, "0000000000000000000": ErrMoneyRange, strings.Repeat("9", 100) + "x": ErrMoneySyntax,
	} {
		_, err := ParseMoney(in)
		require.ErrorIs(t, err, want, in)
	}
}

func TestFormatMoney(t *testing.T) {
	for in, want := range map[int64]string{
		0: "0.00", 1: "0.0001", 5_000: "0.50", 31_415: "3.1415", 31_410: "3.141", 31_400: "3.14", -15_000: "-1.50", -1: "-0.0001",
		MaxMoney: "1000000000.00", math.MinInt64: "-922337203685477.5808",
	} {
		require.Equal(t, want, FormatMoney(in))
	}
}

// Whatever is formatted reads back as itself.
func TestMoneyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64Range(-MaxMoney, MaxMoney).Draw(t, "v")
		got, err := ParseMoney(FormatMoney(v))
		if err != nil || got != v {
			t.Fatalf("%d became %q, and that %d, %v", v, FormatMoney(v), got, err)
		}
	})
}

func FuzzParseMoney(f *testing.F) {
	for _, s := range []string{"", "0", "-0.5", "1000000000.0001", "12.34567", "1e9", ".", "00000000000000000000.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseMoney(s)
		if err != nil {
			require.Zero(t, v)
			return
		}
		// The arithmetic of the standard library agrees with what was accepted.
		r, ok := new(big.Rat).SetString(s)
		require.True(t, ok, "%q was accepted and is no number", s)
		require.Zero(t, r.Mul(r, big.NewRat(MoneyScale, 1)).Cmp(new(big.Rat).SetInt64(v)), "%q became %d", s, v)
		again, err := ParseMoney(FormatMoney(v))
		require.NoError(t, err)
		require.Equal(t, v, again)
	})
}

func TestMoneyAllocatesNothing(t *testing.T) {
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = ParseMoney("1234.56"); _, _ = ParseMoney("1.23456") }))
}

func BenchmarkParseMoney(b *testing.B) {
	for b.Loop() {
		_, _ = ParseMoney("1234.56")
	}
}
