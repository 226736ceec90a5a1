package inference

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxContract bounds model.yaml in bytes.
	maxContract = 1 << 20
	// maxEdges bounds the bins of a feature, and so the series that they become.
	maxEdges = 31
	// maxRowValues bounds the values of a row that a contract may ask for.
	maxRowValues = 1 << 16
	// maxSegments keeps IDs and their number exact in a float32 and lists readable.
	maxSegments = 1 << 10
)

// Names become folders and labels: they hold nothing that means something there.
var (
	nameForm    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	digestForm  = regexp.MustCompile(`^[a-z0-9]+:[0-9a-f]{16,128}$`)
	filesForm   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	measureForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// ParseContract reads model.yaml. Its error is a [*ContractError] that lists every fault.
func ParseContract(text []byte) (*Contract, error) {
	root, err := parseYAML(text)
	if err != nil {
		return nil, &ContractError{Faults: []Fault{{Reason: err.Error()}}}
	}
	var d decoder
	c := d.contract(root)
	if len(d.faults) > 0 {
		slices.SortStableFunc(d.faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
		return nil, &ContractError{Faults: d.faults}
	}
	return c, nil
}

// parseYAML returns the root of the one document in text.
func parseYAML(text []byte) (*yaml.Node, error) {
	if len(text) > maxContract {
		return nil, fmt.Errorf("is longer than %d bytes", maxContract)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("is empty")
	case err != nil:
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	return doc.Content[0], nil
}

// decoder collects faults while it walks a document. It walks nodes by hand, since a fault
// must name the key as its writer knows it.
type decoder struct{ faults []Fault }

func (d *decoder) fault(key string, n *yaml.Node, format string, args ...any) {
	f := Fault{Key: key, Reason: fmt.Sprintf(format, args...)}
	if n != nil {
		f.Line = n.Line
	}
	d.faults = append(d.faults, f)
}

func (d *decoder) contract(n *yaml.Node) *Contract {
	m := d.mapping("", n)
	if m == nil {
		return nil
	}
	c := &Contract{
		Name:        m.text("name"),
		Version:     m.integer("version", 1, math.MaxInt32),
		Description: m.text("description"),
		Signature:   "serve",
	}
	if c.Name != "" && !nameForm.MatchString(c.Name) {
		m.fault("name", "%q is no name: lower-case letters, digits and _ are, from a letter on", c.Name)
	}
	if m.has("signature") {
		c.Signature = m.text("signature")
	}
	for e := range m.list("inputs") {
		c.Inputs = append(c.Inputs, d.input(e.key, e.node))
	}
	for e := range m.list("outputs") {
		c.Outputs = append(c.Outputs, d.output(e.key, e.node))
	}
	if m.has("segments") {
		for e := range m.list("segments") {
			c.Segments = append(c.Segments, d.segment(e.key, e.node))
		}
	}
	if m.has("bins") {
		if b := m.child("bins"); b != nil {
			for _, key := range b.keys {
				c.Bins = append(c.Bins, d.bins(b, key))
			}
		}
	}
	if m.has("baseline") {
		if b := m.child("baseline"); b != nil {
			c.Baseline = make(map[string]float32, len(b.keys))
			for _, key := range b.keys {
				c.Baseline[key] = float32(b.number(key))
			}
		}
	}
	if data := m.child("data"); data != nil {
		c.Data = d.data(data)
	}
	if e := m.child("evaluation"); e != nil {
		c.Evaluation = make(map[string]float64, len(e.keys))
		for _, key := range e.keys {
			if !measureForm.MatchString(key) {
				e.fault(key, "is no name of a measure: lower-case letters, digits and _ are")
			}
			c.Evaluation[key] = e.number(key)
		}
	}
	if t := m.child("trained_with"); t != nil {
		c.TrainedWith = TrainedWith{Keras: t.scalar("keras"), TensorFlow: t.scalar("tensorflow"), Seed: t.integer("seed", math.MinInt32, math.MaxInt32)}
		t.done()
	}
	c.Created = m.time("created")
	if m.has("parent") {
		c.Parent = m.integer("parent", 1, math.MaxInt32)
	}
	if m.has("files") {
		if c.Files = m.text("files"); c.Files != "" && !filesForm.MatchString(c.Files) {
			m.fault("files", "%q is no digest: sha256: and 64 hexadecimal digits are", c.Files)
		}
	}
	m.done()
	d.whole(m, c)
	return c
}

// whole reports what is wrong between parts that are right by themselves.
func (d *decoder) whole(m *mapping, c *Contract) {
	inputs := map[string]bool{}
	for i, in := range c.Inputs {
		if in.Name != "" && inputs[in.Name] {
			m.fault(fmt.Sprintf("inputs[%d].name", i), "%q stands twice", in.Name)
		}
		inputs[in.Name] = true
	}
	if len(c.Outputs) > 1 {
		m.fault("outputs", "has %d elements; a model answers one", len(c.Outputs))
	}
	segmented := slices.ContainsFunc(c.Outputs, func(o Output) bool { return o.Kind == SegmentID })
	switch {
	case segmented && len(c.Segments) == 0:
		m.fault("segments", "is missing, though the output is a segment")
	case !segmented && len(c.Segments) > 0:
		m.fault("segments", "stands here, though no output is a segment")
	case len(c.Segments) > maxSegments:
		m.fault("segments", "has more than %d elements", maxSegments)
	}
	ids, names := map[int]bool{}, map[string]bool{}
	for i, s := range c.Segments {
		if ids[s.ID] {
			m.fault(fmt.Sprintf("segments[%d].id", i), "%d stands twice", s.ID)
		}
		if s.Name != "" && names[s.Name] {
			m.fault(fmt.Sprintf("segments[%d].name", i), "%q stands twice", s.Name)
		}
		ids[s.ID], names[s.Name] = true, true
	}
	unknown := func(feature string) bool {
		return len(c.Inputs) > 0 && !slices.ContainsFunc(c.Inputs, func(in Input) bool { return slices.Contains(in.Features, feature) })
	}
	for _, b := range c.Bins {
		if unknown(b.Feature) {
			m.fault("bins."+b.Feature, "no input has this feature")
		}
	}
	for _, feature := range slices.Sorted(maps.Keys(c.Baseline)) {
		if unknown(feature) {
			m.fault("baseline."+feature, "no input has this feature")
		}
	}
}

func (d *decoder) input(key string, n *yaml.Node) (in Input) {
	m := d.mapping(key, n)
	if m == nil {
		return in
	}
	in.Name, in.Tensor, in.Shape = m.text("name"), m.text("tensor"), m.shape("shape")
	for e := range m.list("features") {
		in.Features = append(in.Features, d.text(e.key, e.node))
	}
	m.done()
	rank := map[string]int{Features: 2, Sequence: 3}[in.Name]
	if in.Name != "" && rank == 0 {
		m.fault("name", "%q is neither %s nor %s", in.Name, Features, Sequence)
	}
	if len(in.Shape) == 0 || rank == 0 {
		return in
	}
	values := 1
	for _, n := range in.Shape[1:] {
		values *= max(n, 1)
		if n < 1 || values > maxRowValues {
			m.fault("shape", "%v: after the -1 come sizes from 1 on, of at most %d values a row", in.Shape, maxRowValues)
			return in
		}
	}
	switch {
	case len(in.Shape) != rank:
		m.fault("shape", "%v has %d dimensions, %s has %d", in.Shape, len(in.Shape), in.Name, rank)
	case in.Shape[0] != -1:
		m.fault("shape", "%v begins with %d; the rows are -1", in.Shape, in.Shape[0])
	case in.Shape[rank-1] != len(in.Features) && m.has("features"):
		m.fault("features", "has %d names, but the last dimension of shape %v is %d", len(in.Features), in.Shape, in.Shape[rank-1])
	}
	for i, name := range in.Features {
		if slices.Index(in.Features, name) < i {
			m.fault(fmt.Sprintf("features[%d]", i), "%q stands twice", name)
		}
		if !nameForm.MatchString(name) {
			m.fault(fmt.Sprintf("features[%d]", i), "%q is no name: lower-case letters, digits and _ are, from a letter on", name)
		}
	}
	return in
}

func (d *decoder) output(key string, n *yaml.Node) (out Output) {
	m := d.mapping(key, n)
	if m == nil {
		return out
	}
	out = Output{Name: m.text("name"), Tensor: m.text("tensor"), Shape: m.shape("shape"), Kind: Kind(m.text("kind"))}
	m.done()
	if out.Kind != "" && out.Kind != Probability && out.Kind != SegmentID {
		m.fault("kind", "%q is neither %s nor %s", string(out.Kind), Probability, SegmentID)
	}
	if s := out.Shape; len(s) > 0 && !slices.Equal(s, []int{-1}) && !slices.Equal(s, []int{-1, 1}) {
		m.fault("shape", "%v is not one value a row: [-1, 1] or [-1]", s)
	}
	return out
}

func (d *decoder) segment(key string, n *yaml.Node) (s Segment) {
	m := d.mapping(key, n)
	if m == nil {
		return s
	}
	s = Segment{ID: m.integer("id", 0, maxSegments-1), Name: m.text("name"), Description: m.text("description")}
	m.done()
	return s
}

func (d *decoder) bins(parent *mapping, feature string) Bins {
	b := Bins{Feature: feature}
	m := parent.child(feature)
	if m == nil {
		return b
	}
	for i, edge := range m.numbers("edges") {
		b.Edges = append(b.Edges, float32(edge))
		if i > 0 && b.Edges[i] <= b.Edges[i-1] {
			m.fault("edges", "must grow, and %v comes after %v (as 32-bit numbers)", b.Edges[i], b.Edges[i-1])
		}
	}
	if len(b.Edges) > maxEdges {
		m.fault("edges", "has %d elements, more than %d", len(b.Edges), maxEdges)
	}
	b.Shares = m.numbers("shares")
	sum := 0.0
	for i, share := range b.Shares {
		if share < 0 || share > 1 {
			m.fault(fmt.Sprintf("shares[%d]", i), "%v is not from 0 to 1", share)
		}
		sum += share
	}
	m.done()
	if len(b.Edges) > 0 && len(b.Shares) > 0 {
		if len(b.Shares) != len(b.Edges)+1 {
			m.fault("shares", "has %d elements, where %d edges make %d bins", len(b.Shares), len(b.Edges), len(b.Edges)+1)
		} else if math.Abs(sum-1) > 1e-3 {
			m.fault("shares", "add up to %.4g, not to 1", sum)
		}
	}
	return b
}

func (d *decoder) data(m *mapping) Data {
	data := Data{Source: m.text("source"), Digest: m.text("digest"), Rows: m.integer("rows", 1, math.MaxInt32)}
	if data.Digest != "" && !digestForm.MatchString(data.Digest) {
		m.fault("digest", "%q is no digest like sha256:0f34…", data.Digest)
	}
	days := m.integers("days", math.MinInt32, math.MaxInt32)
	switch {
	case len(days) == 2 && days[0] <= days[1]:
		data.Days = [2]int(days)
	case len(days) > 0:
		m.fault("days", "%v is not a first and a last day", days)
	}
	m.done()
	return data
}

// text is a string that says something.
func (d *decoder) text(key string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || strings.TrimSpace(n.Value) == "" {
		d.fault(key, n, "must be a text")
		return ""
	}
	return n.Value
}

func (d *decoder) integer(key string, n *yaml.Node, low, high int) int {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.Atoi(n.Value); err == nil && i >= low && i <= high {
			return i
		}
	}
	d.fault(key, n, "must be a whole number from %d to %d", low, high)
	return low
}

func (d *decoder) number(key string, n *yaml.Node) float64 {
	if n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!int" || n.ShortTag() == "!!float") {
		// Not ParseFloat's hexadecimal forms and underscores; and finite also as float32.
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && math.Abs(f) <= math.MaxFloat32 && !strings.ContainsAny(n.Value, "xX_") {
			return f
		}
	}
	d.fault(key, n, "must be a finite number")
	return 0
}

// mapping is one level of the document: it knows which of its keys were asked for.
type mapping struct {
	d      *decoder
	path   string
	node   *yaml.Node
	keys   []string
	values map[string]*yaml.Node
	asked  map[string]bool
}

// mapping returns nil, and reports it, where n is none.
func (d *decoder) mapping(path string, n *yaml.Node) *mapping {
	if n.Kind != yaml.MappingNode {
		d.fault(path, n, "must be keys with values")
		return nil
	}
	m := &mapping{d: d, path: path, node: n, values: map[string]*yaml.Node{}, asked: map[string]bool{}}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch _, twice := m.values[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Value == "" || key.ShortTag() == "!!merge":
			d.fault(path, key, "a key must be a plain text")
		case twice:
			d.fault(m.at(key.Value), key, "stands twice")
		default:
			m.keys = append(m.keys, key.Value)
			m.values[key.Value] = value
		}
	}
	return m
}

func (m *mapping) at(key string) string {
	if m.path == "" {
		return key
	}
	return m.path + "." + key
}

func (m *mapping) fault(key, format string, args ...any) {
	n := m.values[key]
	if n == nil {
		n = m.node
	}
	m.d.fault(m.at(key), n, format, args...)
}

func (m *mapping) has(key string) bool { return m.values[key] != nil }

// get returns the value of a key that must be there, and nil, reported, where it is not.
func (m *mapping) get(key string) *yaml.Node {
	m.asked[key] = true
	n := m.values[key]
	if n == nil {
		m.d.fault(m.at(key), m.node, "is missing")
	}
	return n
}

// done reports the keys that nobody asked for.
func (m *mapping) done() {
	for _, key := range m.keys {
		if !m.asked[key] {
			m.fault(key, "is not a key of a contract")
		}
	}
}

func (m *mapping) text(key string) string {
	if n := m.get(key); n != nil {
		return m.d.text(m.at(key), n)
	}
	return ""
}

// scalar is a text that may look like a number: a version.
func (m *mapping) scalar(key string) string {
	n := m.get(key)
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Value == "" || n.ShortTag() == "!!null" {
		m.fault(key, "must be a text")
		return ""
	}
	return n.Value
}

func (m *mapping) integer(key string, low, high int) int {
	if n := m.get(key); n != nil {
		return m.d.integer(m.at(key), n, low, high)
	}
	return low
}

func (m *mapping) number(key string) float64 {
	if n := m.get(key); n != nil {
		return m.d.number(m.at(key), n)
	}
	return 0
}

func (m *mapping) time(key string) time.Time {
	n := m.get(key)
	if n == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, n.Value)
	if err != nil {
		m.fault(key, "must be a time like 2026-01-31T12:00:00Z")
	}
	return t.UTC()
}

func (m *mapping) child(key string) *mapping {
	if n := m.get(key); n != nil {
		return m.d.mapping(m.at(key), n)
	}
	return nil
}

// element is one element of a list, with its path.
type element struct {
	key  string
	node *yaml.Node
}

// list yields the elements of a list that has some.
func (m *mapping) list(key string) func(yield func(element) bool) {
	return func(yield func(element) bool) {
		n := m.get(key)
		if n == nil {
			return
		}
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
			m.fault(key, "must be a list of at least one element")
			return
		}
		for i, e := range n.Content {
			if !yield(element{key: fmt.Sprintf("%s[%d]", m.at(key), i), node: e}) {
				return
			}
		}
	}
}

// integers and numbers return nil where an element is wrong, so that it is reported once.
func (m *mapping) integers(key string, low, high int) []int {
	return all(m, key, func(e element) int { return m.d.integer(e.key, e.node, low, high) })
}

func (m *mapping) numbers(key string) []float64 {
	return all(m, key, func(e element) float64 { return m.d.number(e.key, e.node) })
}

func all[T any](m *mapping, key string, read func(element) T) (values []T) {
	faults := len(m.d.faults)
	for e := range m.list(key) {
		values = append(values, read(e))
	}
	if len(m.d.faults) > faults {
		return nil
	}
	return values
}

func (m *mapping) shape(key string) []int { return m.integers(key, -1, maxRowValues) }
