package inference

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func example(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile("testdata/model.yaml")
	require.NoError(tb, err)
	return string(text)
}

func TestContractExample(t *testing.T) {
	c, err := ParseContract([]byte(example(t)))
	require.NoError(t, err)
	require.Equal(t, &Contract{
		Name:        "purchase_prediction",
		Version:     1,
		Description: "Probability that a customer buys within the seven days that follow.",
		Signature:   "serve",
		Inputs: []Input{{Name: "features", Tensor: "features", Shape: []int{-1, 10}, Features: []string{
			"recency_days", "visit_days_7", "visit_days_28", "visit_days_84", "log_spend_28", "log_spend_84",
			"gap_ewma", "overdue", "departments_28", "discount_share_84",
		}}},
		Outputs: []Output{{Name: "purchase_7d", Tensor: "output_0", Shape: []int{-1, 1}, Kind: Probability}},
		Bins: []Bins{
			{
				Feature: "recency_days", Edges: []float32{0.97, 1.9, 3.1, 4.8, 6.2, 9.0, 14.3, 25.0, 51.0},
				Shares: []float64{0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1},
			},
			{Feature: "visit_days_7", Edges: []float32{0, 1, 2, 3}, Shares: []float64{0.42, 0.27, 0.16, 0.09, 0.06}},
		},
		Data: Data{
			Source: "completejourney", Rows: 54318, Days: [2]int{84, 238},
			Digest: "sha256:0f343b0931126a20f133d67c2b018a3b5d1f9a1e1ed2d41a4c9c5b2f4f4d1f8b",
		},
		Evaluation:  map[string]float64{"auc": 0.8285, "log_loss": 0.5053, "ece": 0.0131},
		TrainedWith: TrainedWith{Keras: "3.12.0", TensorFlow: "2.21.0", Seed: 7},
		Created:     time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
	}, c)
}

func TestContractSegments(t *testing.T) {
	text := strings.Replace(example(t), "kind: probability", "kind: segment", 1)
	text = strings.ReplaceAll(text, "\n# segments:", "\nsegments:")
	text = strings.ReplaceAll(text, "\n#   - id: 0\n#     name: loyal\n#     description: ", "\n  - id: 3\n    name: loyal\n    description: ")
	c, err := ParseContract([]byte(text))
	require.NoError(t, err)
	want := Segment{ID: 3, Name: "loyal", Description: "Come every few days and spend the most."}
	require.Equal(t, []Segment{want}, c.Segments)
	have, ok := c.Segment(3)
	require.True(t, ok)
	require.Equal(t, want, have)
	_, ok = c.Segment(2)
	require.False(t, ok)
}

// Every way to be wrong is named by its key, and all of them at once.
func TestContractFaults(t *testing.T) {
	for name, test := range map[string]struct {
		// replace holds pairs of old and new text.
		replace []string
		want    []string
	}{
		"unknown key":           {[]string{"seed: 7", "seed: 7\n  gpu: 1"}, []string{"trained_with.gpu: is not a key of a contract"}},
		"unknown key at top":    {[]string{"created:", "author: me\ncreated:"}, []string{"author: is not a key of a contract"}},
		"unknown key in a list": {[]string{"    kind: probability", "    kind: probability\n    unit: 1"}, []string{"outputs[0].unit: is not a key of a contract"}},
		"missing key":           {[]string{"name: purchase_prediction\n", ""}, []string{"name: is missing"}},
		"missing child":         {[]string{"  rows: 54318\n", ""}, []string{"data.rows: is missing"}},
		"key twice":             {[]string{"seed: 7", "seed: 7\n  seed: 8"}, []string{"trained_with.seed: stands twice"}},
		"several": {
			[]string{"version: 1\n", "version: 0\n", "auc: 0.8285", "auc: .nan", "kind: probability", "kind: price"},
			[]string{
				"version: must be a whole number from 1 to 2147483647",
				`outputs[0].kind: "price" is neither probability nor segment`,
				"evaluation.auc: must be a finite number",
			},
		},
		"text for number":    {[]string{"version: 1\n", "version: one\n"}, []string{"version: must be a whole number"}},
		"number for text":    {[]string{"source: completejourney", "source: 12"}, []string{"data.source: must be a text"}},
		"blank text":         {[]string{"source: completejourney", `source: " "`}, []string{"data.source: must be a text"}},
		"bad name":           {[]string{"name: purchase_prediction", "name: ../etc"}, []string{`name: "../etc" is no name`}},
		"bad signature":      {[]string{"signature: serve", "signature: [a]"}, []string{"signature: must be a text"}},
		"no inputs":          {[]string{"inputs:\n", "inputs: []\nx:\n"}, []string{"inputs: must be a list of at least one element", "x: is not a key"}},
		"unknown input":      {[]string{"- name: features", "- name: history"}, []string{`inputs[0].name: "history" is neither features nor sequence`}},
		"rank":               {[]string{"- name: features", "- name: sequence"}, []string{"inputs[0].shape: [-1 10] has 2 dimensions, sequence has 3"}},
		"no rows":            {[]string{"shape: [-1, 10]", "shape: [1, 10]"}, []string{"inputs[0].shape: [1 10] begins with 1; the rows are -1"}},
		"zero dimension":     {[]string{"shape: [-1, 10]", "shape: [-1, 0]"}, []string{"inputs[0].shape: [-1 0]: after the -1 come sizes"}},
		"huge dimension":     {[]string{"shape: [-1, 10]", "shape: [-1, 9999999]"}, []string{"inputs[0].shape[1]: must be a whole number"}},
		"names and shape":    {[]string{"      - overdue\n", ""}, []string{"inputs[0].features: has 9 names, but the last dimension of shape [-1 10] is 10"}},
		"name twice":         {[]string{"- overdue", "- gap_ewma"}, []string{`inputs[0].features[7]: "gap_ewma" stands twice`}},
		"bad feature":        {[]string{"- overdue", "- Over Due"}, []string{`inputs[0].features[7]: "Over Due" is no name`}},
		"two values a row":   {[]string{"shape: [-1, 1]", "shape: [-1, 2]"}, []string{"outputs[0].shape: [-1 2] is not one value a row"}},
		"segments needed":    {[]string{"kind: probability", "kind: segment"}, []string{"segments: is missing, though the output is a segment"}},
		"segments for none":  {[]string{"created:", "segments: [{id: 1, name: a, description: b}]\ncreated:"}, []string{"segments: stands here, though no output is a segment"}},
		"segment twice":      {[]string{"kind: probability", "kind: segment", "created:", "segments: [{id: 1, name: a, description: b}, {id: 1, name: a, description: b}]\ncreated:"}, []string{"segments[1].id: 1 stands twice", `segments[1].name: "a" stands twice`}},
		"edges shrink":       {[]string{"edges: [0, 1, 2, 3]", "edges: [0, 2, 2, 3]"}, []string{"bins.visit_days_7.edges: must grow, and 2 comes after 2"}},
		"infinite edge":      {[]string{"edges: [0, 1, 2, 3]", "edges: [0, 1, 2, .inf]"}, []string{"bins.visit_days_7.edges[3]: must be a finite number"}},
		"edge beyond float":  {[]string{"edges: [0, 1, 2, 3]", "edges: [0, 1, 2, 1e39]"}, []string{"bins.visit_days_7.edges[3]: must be a finite number"}},
		"shares":             {[]string{"0.09, 0.06]", "0.09, 0.16]"}, []string{"bins.visit_days_7.shares: add up to 1.1, not to 1"}},
		"shares missing":     {[]string{"0.09, 0.06]", "0.15]"}, []string{"bins.visit_days_7.shares: has 4 elements, where 4 edges make 5 bins"}},
		"negative share":     {[]string{"0.09, 0.06]", "0.30, -0.15]"}, []string{"bins.visit_days_7.shares[4]: -0.15 is not from 0 to 1"}},
		"bins of nothing":    {[]string{"\n  visit_days_7:\n    edges", "\n  visits:\n    edges"}, []string{"bins.visits: no input has this feature"}},
		"baseline of none":   {[]string{"# baseline:\n#   overdue: 0.63", "baseline:\n  overdo: 0.63"}, []string{"baseline.overdo: no input has this feature"}},
		"baseline no number": {[]string{"# baseline:\n#   overdue: 0.63", "baseline:\n  overdue: often"}, []string{"baseline.overdue: must be a finite number"}},
		"digest":             {[]string{"digest: sha256:", "digest: "}, []string{"data.digest:"}},
		"days backwards":     {[]string{"[84, 238]", "[238, 84]"}, []string{"data.days: [238 84] is not a first and a last day"}},
		"one day":            {[]string{"[84, 238]", "[238]"}, []string{"data.days: [238] is not a first and a last day"}},
		"measure":            {[]string{"auc: 0.8285", "AUC: 0.8285"}, []string{"evaluation.AUC: is no name of a measure"}},
		"time":               {[]string{"2026-01-31T12:00:00Z", "yesterday"}, []string{"created: must be a time like"}},
		"list for mapping":   {[]string{"evaluation:\n  auc: 0.8285\n  log_loss: 0.5053\n  ece: 0.0131", "evaluation: []"}, []string{"evaluation: must be keys with values"}},
		"alias":              {[]string{"source: completejourney", "source: &x completejourney", "keras: 3.12.0", "keras: *x"}, []string{"trained_with.keras: must be a text"}},
		"merge":              {[]string{"trained_with:\n", "trained_with:\n  <<: {}\n"}, []string{"trained_with: a key must be a plain text"}},
		"not YAML":           {[]string{"inputs:\n", "inputs: [\n"}, []string{"did not find expected"}},
		"two documents":      {[]string{"created:", "---\ncreated:"}, []string{"holds more than one document"}},
		"scalar for element": {[]string{"  - name: purchase_7d\n", "  - 12\n  - name: purchase_7d\n"}, []string{"outputs[0]: must be keys with values", "outputs: has 2 elements; a model answers one"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := example(t)
			for i := 0; i < len(test.replace); i += 2 {
				require.Contains(t, text, test.replace[i])
				text = strings.Replace(text, test.replace[i], test.replace[i+1], 1)
			}
			_, err := ParseContract([]byte(text))
			var faults *ContractError
			require.ErrorAs(t, err, &faults)
			have := make([]string, len(faults.Faults))
			for i, f := range faults.Faults {
				f.Line = 0
				have[i] = f.String()
			}
			require.Len(t, have, len(test.want), "%q", have)
			for i := range have {
				require.Contains(t, have[i], test.want[i])
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
	for name, text := range map[string]string{"empty": "", "comment": "# nothing", "scalar": "12", "null": "~", "long": strings.Repeat("#", maxContract+1)} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseContract([]byte(text))
			var faults *ContractError
			require.ErrorAs(t, err, &faults)
			require.Len(t, faults.Faults, 1)
		})
	}
}

func TestContractFaultNamesLine(t *testing.T) {
	_, err := ParseContract([]byte("name: a\nversion: 1\ndescription: 7\n"))
	require.ErrorContains(t, err, "line 3: description: must be a text")
}

// Whatever the text: a contract that is right in itself, or faults; never both, never a panic.
func FuzzParseContract(f *testing.F) {
	f.Add([]byte(example(f)))
	f.Add([]byte("{name: a, inputs: [{name: sequence, shape: [-1, 10, 5]}], bins: {a: {edges: [1], shares: [.5, .5]}}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseContract(text)
		if err != nil {
			var faults *ContractError
			require.ErrorAs(t, err, &faults)
			require.NotEmpty(t, faults.Faults)
			return
		}
		require.Regexp(t, nameForm, c.Name)
		require.Positive(t, c.Version)
		require.Len(t, c.Outputs, 1)
		require.NotEmpty(t, c.Inputs)
		for _, in := range c.Inputs {
			require.Len(t, in.Features, in.Shape[len(in.Shape)-1])
		}
		for _, b := range c.Bins {
			require.Len(t, b.Shares, len(b.Edges)+1)
			require.LessOrEqual(t, len(b.Edges), maxEdges)
		}
		require.Equal(t, c.Outputs[0].Kind == SegmentID, len(c.Segments) > 0)
	})
}
