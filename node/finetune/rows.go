package finetune

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math"
	"regexp"
	"slices"
	"strconv"

	"footfall/inference"
	"footfall/messages/footfallv1"
)

// table is rows with their outcome, of the matrices that one model is fed.
type table struct {
	layout inference.Layout
	// inputs are those of the model.
	inputs []inference.Input
	most   int

	matrices  map[string][]float32
	labels    []float32
	days      []int32
	customers []uint64
}

func newTable(layout inference.Layout, c *inference.Contract, bytes int) *table {
	t := &table{layout: layout, inputs: c.Inputs, matrices: map[string][]float32{}}
	row := 4 + 4 + 8
	for _, in := range c.Inputs {
		row += 4 * t.width(in.Name)
	}
	t.most = max(1, bytes/row)
	return t
}

func (t *table) width(input string) int {
	if input == inference.Sequence {
		return t.layout.Steps * len(t.layout.Columns)
	}
	return len(t.layout.Features)
}

// column names a value of a row.
func (t *table) column(input string, i int) string {
	if input == inference.Sequence {
		return fmt.Sprintf("sequence[%d].%s", i/len(t.layout.Columns), t.layout.Columns[i%len(t.layout.Columns)])
	}
	return t.layout.Features[i]
}

// add checks rows and takes them. The matrices that the model is not fed are passed over.
func (t *table) add(m *footfallv1.FineTuneRows) error {
	n, first := len(m.GetLabels()), len(t.labels)
	if n == 0 {
		return field("labels", "are missing: every row needs its outcome")
	}
	if first+n > t.most {
		return field("rows", "are more than %d, which is what a node takes at once: send fewer of them", t.most)
	}
	for name, have := range map[string]int{"days": len(m.GetDays()), "customers": len(m.GetCustomers())} {
		if have != n {
			return field(name, "are %d for %d rows", have, n)
		}
	}
	for _, in := range t.inputs {
		values, width := m.GetFeatures(), t.width(in.Name)
		if in.Name == inference.Sequence {
			values = m.GetSequences()
		}
		if len(values) != n*width {
			return field(in.Name, "has %d values, where %d rows have %d", len(values), n, n*width)
		}
		for i, v := range values {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return &FieldError{Row: int64(first + i/width), Field: t.column(in.Name, i%width), Reason: fmt.Sprintf("is %v, which is not finite", v)}
			}
		}
		t.matrices[in.Name] = append(t.matrices[in.Name], values...)
	}
	for _, happened := range m.GetLabels() {
		label := float32(0)
		if happened {
			label = 1
		}
		t.labels = append(t.labels, label)
	}
	t.days = append(t.days, m.GetDays()...)
	for _, id := range m.GetCustomers() {
		h := fnv.New64a()
		_, _ = h.Write([]byte(id)) // it never fails
		t.customers = append(t.customers, h.Sum64())
	}
	return nil
}

// Ways to part the rows that judge from the others.
const (
	splitDays      = "days"
	splitCustomers = "customers"
)

// split is which rows are trained on, and which judge.
type split struct {
	train, judge []int32
	leftOut      int
	how          string
}

var horizonForm = regexp.MustCompile(`_([0-9]{1,3})d$`)

// horizonOf is how many days an outcome looks ahead: 28 of churn_28d; 0 where its name does not say.
func horizonOf(label string) int32 {
	if m := horizonForm.FindStringSubmatch(label); m != nil {
		n, _ := strconv.Atoi(m[1]) // the form has digits
		return int32(n)
	}
	return 0
}

// split has the latest days judge, and where they leave too little, some of the customers.
func (t *table) split(share float64, horizon int32) (split, error) {
	n := len(t.labels)
	if n < LeastTrained+LeastJudging {
		return split{}, field("rows", "are %d: at least %d are needed, to train on %d and to judge by %d", n, LeastTrained+LeastJudging, LeastTrained, LeastJudging)
	}
	s := t.byDays(share, horizon)
	if len(s.train) < max(LeastTrained, n/4) || !t.mixed(s.train) || !t.mixed(s.judge) {
		s = t.byCustomers(share)
	}
	for _, part := range []struct {
		what  string
		rows  []int32
		least int
	}{{"train on", s.train, LeastTrained}, {"judge by", s.judge, LeastJudging}} {
		if len(part.rows) < part.least {
			return s, field("rows", "leave %d to %s, %d are needed: send more of them, or another holdout", len(part.rows), part.what, part.least)
		}
		if !t.mixed(part.rows) {
			return s, field("labels", "are all the same in the rows to %s: nothing can be learned from them", part.what)
		}
	}
	return s, nil
}

func (t *table) byDays(share float64, horizon int32) split {
	byDay := map[int32]int{}
	for _, d := range t.days {
		byDay[d]++
	}
	days := make([]int32, 0, len(byDay))
	for d := range byDay {
		days = append(days, d)
	}
	slices.Sort(days)
	s := split{how: splitDays}
	first, count := days[len(days)-1], 0 // the first day that judges
	for _, d := range slices.Backward(days) {
		if float64(count) >= share*float64(len(t.days)) {
			break
		}
		first, count = d, count+byDay[d]
	}
	for i, d := range t.days {
		switch {
		case d >= first:
			s.judge = append(s.judge, int32(i))
		case d <= first-horizon:
			s.train = append(s.train, int32(i))
		default:
			s.leftOut++
		}
	}
	return s
}

func (t *table) byCustomers(share float64) split {
	s := split{how: splitCustomers}
	limit := uint64(share * 10000)
	for i, c := range t.customers {
		if c%10000 < limit {
			s.judge = append(s.judge, int32(i))
		} else {
			s.train = append(s.train, int32(i))
		}
	}
	return s
}

// mixed reports whether both outcomes are among the rows.
func (t *table) mixed(rows []int32) bool {
	return len(rows) > 0 && slices.ContainsFunc(rows, func(i int32) bool { return t.labels[i] != t.labels[rows[0]] })
}

// gather copies rows into a batch, whose memory is used again.
func (t *table) gather(rows []int32, into *inference.Batch, labels []float32) []float32 {
	into.Rows = len(rows)
	for _, in := range t.inputs {
		width, from := t.width(in.Name), t.matrices[in.Name]
		pieces := &into.Features
		if in.Name == inference.Sequence {
			pieces = &into.Sequences
		}
		if *pieces == nil {
			*pieces = make([][]float32, 1)
		}
		values := (*pieces)[0][:0]
		for _, i := range rows {
			values = append(values, from[int(i)*width:(int(i)+1)*width]...)
		}
		(*pieces)[0] = values
	}
	labels = labels[:0]
	for _, i := range rows {
		labels = append(labels, t.labels[i])
	}
	return labels
}

// digest is of rows in their order: of each the customer's hash, the day, the matrices and the outcome.
func (t *table) digest(rows []int32) string {
	h := sha256.New()
	var b []byte
	for _, i := range rows {
		b = binary.LittleEndian.AppendUint64(b[:0], t.customers[i])
		b = binary.LittleEndian.AppendUint32(b, uint32(t.days[i]))
		for _, in := range t.inputs {
			width := t.width(in.Name)
			for _, v := range t.matrices[in.Name][int(i)*width : (int(i)+1)*width] {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
			}
		}
		b = append(b, byte(t.labels[i]))
		_, _ = h.Write(b) // it never fails
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// span is the first and the last day of rows.
func (t *table) span(rows []int32) (first, last int32) {
	first, last = t.days[rows[0]], t.days[rows[0]]
	for _, i := range rows {
		first, last = min(first, t.days[i]), max(last, t.days[i])
	}
	return first, last
}
