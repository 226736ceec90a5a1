package messages

import "unsafe"

// Scanned is what a fold needs of a purchase, read straight from its bytes, which its strings
// are parts of.
type Scanned struct {
	EventID, CustomerID, Producer string
	Sequence                      uint64
	// Seconds and Nanos are the event's time.
	Seconds int64
	Nanos   int32
	Lines   []ScannedLine
}

// ScannedLine is one line of a purchase; the money is in ten-thousandths.
type ScannedLine struct {
	Department       string
	Amount, Discount int64
	Quantity         uint32
}

// ScanPurchase reads an encoded event where it is what most are: a purchase without fault, whose
// fields come in ascending order, each once, none of them unknown. It reports whether it is; if
// not, what it left in into says nothing, and the event is to be decoded and validated, which
// takes several times as long. What it accepts, [Validator.ValidateIn] accepts, by the same
// checks, and it reads what a decoder would. The memory of into's lines is used again.
func (v *Validator) ScanPurchase(shard int, raw []byte, into *Scanned) bool {
	*into = Scanned{Lines: into.Lines[:0]}
	timed, kind := false, false
	s := unsafe.String(unsafe.SliceData(raw), len(raw))
	var part string
	for at, last := 0, byte(0); at < len(s); {
		tag := s[at]
		if tag <= last {
			return false
		}
		last = tag
		switch tag {
		case eventIDTag:
			into.EventID, at = scanText(s, at+1)
		case customerIDTag:
			into.CustomerID, at = scanText(s, at+1)
		case timeTag:
			part, at = scanText(s, at+1)
			timed = into.scanTime(part)
		case producerTag:
			into.Producer, at = scanText(s, at+1)
		case sequenceTag:
			into.Sequence, at = scanNumber(s, at+1)
		case purchaseTag:
			part, at = scanText(s, at+1)
			kind = v.scanPurchase(part, into)
		default:
			return false
		}
		if at < 0 {
			return false
		}
	}
	return timed && kind && requiredID(into.EventID) == "" && customerID(into.CustomerID) == "" &&
		(into.Producer == "") == (into.Sequence == 0) && name(into.Producer) == "" &&
		ShardOf(into.CustomerID, v.Shards) == shard
}

func (t *Scanned) scanTime(s string) bool {
	var seconds, nanos uint64
	for at, last := 0, byte(0); at < len(s); {
		tag := s[at]
		if tag <= last {
			return false
		}
		last = tag
		switch tag {
		case secondsTag:
			seconds, at = scanNumber(s, at+1)
		case nanosTag:
			nanos, at = scanNumber(s, at+1)
		default:
			return false
		}
		if at < 0 {
			return false
		}
	}
	t.Seconds, t.Nanos = int64(seconds), int32(nanos)
	return seconds < endTime && nanos < 1e9
}

func (v *Validator) scanPurchase(s string, into *Scanned) bool {
	var basket, currency, store, line string
	for at, last := 0, byte(0); at < len(s); {
		tag := s[at]
		if tag < last || tag == last && tag != linesTag {
			return false
		}
		last = tag
		switch tag {
		case basketIDTag:
			basket, at = scanText(s, at+1)
		case currencyTag:
			currency, at = scanText(s, at+1)
		case linesTag:
			line, at = scanText(s, at+1)
			if at >= 0 && !into.scanLine(line) {
				return false
			}
		case storeIDTag:
			store, at = scanText(s, at+1)
		default:
			return false
		}
		if at < 0 {
			return false
		}
	}
	return len(into.Lines) > 0 && len(into.Lines) <= MaxLines &&
		(currency == "" || currency == v.Currency) && name(basket) == "" && name(store) == ""
}

func (t *Scanned) scanLine(s string) bool {
	var product, department, amount, discount string
	var quantity uint64
	for at, last := 0, byte(0); at < len(s); {
		tag := s[at]
		if tag <= last {
			return false
		}
		last = tag
		switch tag {
		case productIDTag:
			product, at = scanText(s, at+1)
		case departmentTag:
			department, at = scanText(s, at+1)
		case quantityTag:
			quantity, at = scanNumber(s, at+1)
		case amountTag:
			amount, at = scanText(s, at+1)
		case discountTag:
			discount, at = scanText(s, at+1)
		default:
			return false
		}
		if at < 0 {
			return false
		}
	}
	if quantity > MaxQuantity || name(product) != "" || name(department) != "" {
		return false
	}
	l := ScannedLine{Department: department, Quantity: uint32(quantity)}
	var err error
	if l.Amount, err = ParseMoney(amount); err != nil || l.Amount < 0 {
		return false
	}
	if discount != "" {
		if l.Discount, err = ParseMoney(discount); err != nil || l.Discount < 0 {
			return false
		}
	}
	t.Lines = append(t.Lines, l)
	return true
}

// scanText reads a string, or a message within the message, at a place in s, and returns the
// place after it, below 0 where there is none.
func scanText(s string, at int) (text string, next int) {
	if at < len(s) && s[at] < 0x80 { // nearly always
		n := int(s[at])
		at++
		if n > len(s)-at {
			return "", -1
		}
		return s[at : at+n], at + n
	}
	n, at := scanNumber(s, at)
	if at < 0 || n > uint64(len(s)-at) {
		return "", -1
	}
	return s[at : at+int(n)], at + int(n)
}

// scanNumber reads a varint of at most 63 bits, as scanText does a string.
func scanNumber(s string, at int) (n uint64, next int) {
	for i := 0; i < 9 && at+i < len(s); i++ {
		b := s[at+i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return n, at + i + 1
		}
	}
	return 0, -1
}

// The tags of what a purchase has, number and wire type.
const (
	numberTag = 0
	textTag   = 2

	eventIDTag    = 1<<3 | textTag
	customerIDTag = 2<<3 | textTag
	timeTag       = 3<<3 | textTag
	producerTag   = 4<<3 | textTag
	sequenceTag   = 5<<3 | numberTag
	purchaseTag   = 10<<3 | textTag

	secondsTag = 1<<3 | numberTag
	nanosTag   = 2<<3 | numberTag

	basketIDTag = 1<<3 | textTag
	currencyTag = 2<<3 | textTag
	linesTag    = 3<<3 | textTag
	storeIDTag  = 4<<3 | textTag

	productIDTag  = 1<<3 | textTag
	departmentTag = 2<<3 | textTag
	quantityTag   = 3<<3 | numberTag
	amountTag     = 4<<3 | textTag
	discountTag   = 5<<3 | textTag
)
