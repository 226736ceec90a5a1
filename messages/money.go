package messages

import (
	"errors"
	"strconv"
)

// Money is an integer of ten-thousandths of the cluster's currency unit, so that sums are
// exact and no platform rounds them another way. On the wire it is a decimal string.
const (
	// MoneyScale is how many ten-thousandths make one unit: 0.50 is 5,000.
	MoneyScale = 10_000
	// MaxMoney is the largest amount, one thousand million units. The lines of a purchase, and
	// the purchases of many lifetimes, add up without overflow.
	MaxMoney = 1_000_000_000 * MoneyScale
)

// What [ParseMoney] refuses. The texts are written to follow the name of a field.
var (
	ErrMoneySyntax   = errors.New(`must be a decimal string such as "0.50"`)
	ErrMoneyDecimals = errors.New(`has more than four decimals`)
	ErrMoneyRange    = errors.New(`is beyond 1000000000`)
)

// maxMoneyLen bounds the digits and point of an amount, so that reading them cannot overflow.
const maxMoneyLen = 18

// ParseMoney reads a decimal such as "12", "0.50" or "-3.1415" and returns its
// ten-thousandths. There is at least one digit on each side of a point, at most four after it,
// and nothing but digits, one point and one leading minus: no plus, space or exponent. The
// errors are [ErrMoneySyntax], [ErrMoneyDecimals] and [ErrMoneyRange].
func ParseMoney(s string) (int64, error) {
	negative := len(s) > 0 && s[0] == '-'
	if negative {
		s = s[1:]
	}
	var value uint64
	i := 0
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		if i == maxMoneyLen {
			return 0, longMoney(s)
		}
		value = value*10 + uint64(s[i]-'0')
	}
	if i == 0 {
		return 0, ErrMoneySyntax
	}
	scale := uint64(MoneyScale)
	if i < len(s) {
		if s[i] != '.' || i+1 == len(s) {
			return 0, ErrMoneySyntax
		}
		// Decimals are added only once the whole part is known to be small.
		if value > MaxMoney/MoneyScale {
			return 0, longMoney(s)
		}
		for i++; i < len(s); i++ {
			if s[i]-'0' > 9 {
				return 0, ErrMoneySyntax
			}
			if scale == 1 {
				return 0, longMoney(s)
			}
			value = value*10 + uint64(s[i]-'0')
			scale /= 10
		}
	} else if value > MaxMoney/MoneyScale {
		return 0, ErrMoneyRange
	}
	if value *= scale; value > MaxMoney {
		return 0, ErrMoneyRange
	}
	if negative {
		return -int64(value), nil
	}
	return int64(value), nil
}

// longMoney says which rule an unsigned amount with too many digits breaks: what is no number at
// all is called that first.
func longMoney(s string) error {
	point := -1
	for i := range len(s) {
		switch {
		case s[i]-'0' <= 9:
		case s[i] == '.' && point < 0 && i > 0 && i < len(s)-1:
			point = i
		default:
			return ErrMoneySyntax
		}
	}
	if point >= 0 && len(s)-point-1 > 4 {
		return ErrMoneyDecimals
	}
	return ErrMoneyRange
}

// FormatMoney writes ten-thousandths as a decimal with two decimals, or as many of four as are
// needed: 5,000 is "0.50", -31,415 is "-3.1415".
func FormatMoney(v int64) string {
	var buf [24]byte
	return string(AppendMoney(buf[:0], v))
}

// AppendMoney appends what [FormatMoney] returns.
func AppendMoney(b []byte, v int64) []byte {
	u := uint64(v)
	if v < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/MoneyScale, 10)
	f := u % MoneyScale
	b = append(b, '.', byte('0'+f/1000), byte('0'+f/100%10))
	switch {
	case f%100 == 0:
		return b
	case f%10 == 0:
		return append(b, byte('0'+f/10%10))
	default:
		return append(b, byte('0'+f/10%10), byte('0'+f%10))
	}
}
