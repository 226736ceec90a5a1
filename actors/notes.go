package actors

import "footfall/behavior"

// notes are what a shard keeps of the events that it folds, for metrics, and to know who comes
// most often. Nothing of them is stored. They belong to the goroutine of its shard, which hands
// them over to the metrics a few times a second; an event costs some additions, no allocation,
// and one in eight a step of the sketch.
type notes struct {
	// Since the last hand-over.
	kinds [eventKinds]uint64
	late  [len(lateDays)]uint64
	sales sales
	fresh bool

	// newest is the latest time of an event of each kind, Unix milliseconds.
	newest [eventKinds]int64
	hot    hot
}

const eventKinds = int(behavior.Erase) + 1

// lateDays are the upper ends, in days, of how late an event may be counted; the last has none.
var lateDays = [...]struct {
	upTo int64
	name string
}{{1, "1"}, {7, "2-7"}, {28, "8-28"}, {1 << 40, "29-"}}

const dayMS = 24 * 3600 * 1000

// hotSample is how many events stand for one in the sketch, a power of two. Which one is told by
// the hash of its ID: that follows no order in which publishers send.
const hotSample = 8

// folded notes an event. lateMS is how long before the end of the last day that has ended it
// happened; negative where it is of a day that has not.
func (n *notes) folded(customer string, flat *behavior.Event, lateMS int64) {
	n.fresh = true
	kind := flat.Kind
	n.kinds[kind]++
	n.newest[kind] = max(n.newest[kind], flat.Time)
	if lateMS >= 0 {
		days := 1 + lateMS/dayMS
		for i := range lateDays {
			if days <= lateDays[i].upTo {
				n.late[i]++
				break
			}
		}
	}
	switch {
	case kind == behavior.Erase:
		n.hot.forget(customer)
	case flat.ID%hotSample == 0:
		n.hot.add(customer)
	}
	if kind == behavior.Purchase {
		n.sales.add(flat)
	}
}

// sales sums what purchases cost, by department. The table keeps the departments that it has
// seen; those beyond most are summed as others.
type sales struct {
	table [salesTable]departmentSales
	n     int
	// none is of lines that name no department, others of departments that have no place.
	none, others float64
}

// departmentSales is one department's, in the currency's ten-thousandths since the last hand-over.
type departmentSales struct {
	hash   uint32
	name   string // "" for a place that is free
	amount float64
}

const (
	salesTable = 256
	salesMost  = 192
)

func (s *sales) add(flat *behavior.Event) {
	if len(flat.Departments) == 0 {
		s.none += float64(flat.Spend)
		return
	}
	rest := flat.Spend
	for i, hash := range flat.Departments {
		amount := flat.Amounts[i]
		rest -= amount
		at := hash % salesTable
		for s.table[at].name != "" && s.table[at].hash != hash {
			at = (at + 1) % salesTable
		}
		d := &s.table[at]
		if d.name == "" {
			if s.n == salesMost {
				s.others += float64(amount)
				continue
			}
			s.n++
			d.hash, d.name = hash, cloneString(flat.Names[i])
		}
		d.amount += float64(amount)
	}
	s.none += float64(rest)
}

// handOver gives the sums to do and begins anew.
func (n *notes) handOver(do func(*notes)) {
	if !n.fresh {
		return
	}
	do(n)
	n.fresh = false
	n.kinds = [eventKinds]uint64{}
	n.late = [len(lateDays)]uint64{}
	for i := range n.sales.table {
		n.sales.table[i].amount = 0
	}
	n.sales.none, n.sales.others = 0, 0
}
