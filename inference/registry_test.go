package inference

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var testLayout = Layout{
	Features: []string{
		"recency_days", "visit_days_7", "visit_days_28", "visit_days_84", "log_spend_28", "log_spend_84",
		"gap_ewma", "overdue", "departments_28", "discount_share_84",
	},
	Steps:   10,
	Columns: []string{"age_days", "gap_days", "log_spend", "departments", "discount_share"},
}

// writeModel makes a version in dir: the example's contract after the replacements (pairs of
// old and new text), and a file in the place of a SavedModel.
func writeModel(tb testing.TB, dir, name, version string, replace ...string) {
	tb.Helper()
	text := strings.Replace(example(tb), "name: purchase_prediction\nversion: 1\n", "name: "+name+"\nversion: "+version+"\n", 1)
	for i := 0; i < len(replace); i += 2 {
		require.Contains(tb, text, replace[i])
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	write(tb, filepath.Join(dir, name, version, "model.yaml"), text)
	write(tb, filepath.Join(dir, name, version, "saved_model.pb"), "")
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(tb, os.WriteFile(path, []byte(text), 0o600))
}

// sequenceInput turns the example's contract into one of a model of sequences.
var sequenceInput = []string{
	"  - name: features\n", "  - name: sequence\n",
	"shape: [-1, 10]", "shape: [-1, 10, 5]",
	"      - recency_days\n      - visit_days_7\n      - visit_days_28\n      - visit_days_84\n      - log_spend_28\n" +
		"      - log_spend_84\n      - gap_ewma\n      - overdue\n      - departments_28\n      - discount_share_84\n",
	"      - age_days\n      - gap_days\n      - log_spend\n      - departments\n      - discount_share\n",
	"\n  recency_days:\n    edges", "\n  age_days:\n    edges",
	"\n  visit_days_7:\n    edges", "\n  departments:\n    edges",
}

func TestRegistryLists(t *testing.T) {
	dir := t.TempDir()
	writeModel(t, dir, "purchase_prediction", "2")
	writeModel(t, dir, "purchase_prediction", "10")
	writeModel(t, dir, "purchase_prediction", "9")
	writeModel(t, dir, "purchase_sequence", "1", sequenceInput...)
	write(t, filepath.Join(dir, "README.md"), "not a model")
	write(t, filepath.Join(dir, ".git", "HEAD"), "nor this")

	for _, location := range []string{dir, "file:" + dir, "file://" + dir, "file://localhost" + dir} {
		r, err := OpenRegistry(location, testLayout)
		require.NoError(t, err)
		require.Len(t, r.Models(), 2)
		var have []string
		for _, m := range r.Models() {
			require.NoError(t, m.Err)
			for _, v := range m.Versions {
				require.NoError(t, v.Err)
				require.Equal(t, v.Contract, r.Contract(m.Name, v.Name))
				have = append(have, m.Name+" "+v.Name)
			}
		}
		require.Equal(t, []string{"purchase_prediction 10", "purchase_prediction 9", "purchase_prediction 2", "purchase_sequence 1"}, have)
		require.Nil(t, r.Contract("purchase_prediction", "3"))
		require.Nil(t, r.Contract("churn_risk", "1"))
	}
}

// What is wrong with one version is said there, and stops nothing else.
func TestRegistryFaults(t *testing.T) {
	dir := t.TempDir()
	writeModel(t, dir, "good", "1")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "empty"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "Not a name"), 0o755))
	writeModel(t, dir, "faulty", "1", "kind: probability", "kind: price")
	writeModel(t, dir, "faulty", "2")
	require.NoError(t, os.Remove(filepath.Join(dir, "faulty", "2", "model.yaml")))
	writeModel(t, dir, "faulty", "3")
	require.NoError(t, os.Remove(filepath.Join(dir, "faulty", "3", "saved_model.pb")))
	writeModel(t, dir, "faulty", "4", "name: faulty", "name: other", "version: 4", "version: 5")
	writeModel(t, dir, "faulty", "6", "- gap_ewma\n      - overdue\n", "- overdue\n      - gap_ewma\n")
	writeModel(t, dir, "faulty", "7", "shape: [-1, 10]", "shape: [-1, 9]", "      - recency_days\n", "", "\n  recency_days:\n", "\n  overdue:\n")
	writeModel(t, dir, "faulty", "8")
	write(t, filepath.Join(dir, "faulty", "8", "model.yaml"), strings.Repeat("#", maxContract+1))
	writeModel(t, dir, "faulty", "07")
	writeModel(t, dir, "faulty", "9")
	require.NoError(t, os.Remove(filepath.Join(dir, "faulty", "9", "saved_model.pb")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "faulty", "9", "saved_model.pb"), 0o755))

	r, err := OpenRegistry(dir, testLayout)
	require.NoError(t, err)
	models := map[string]Model{}
	versions := map[string]string{}
	for _, m := range r.Models() {
		models[m.Name] = m
		for _, v := range m.Versions {
			if v.Err != nil {
				require.Nil(t, v.Contract)
				versions[m.Name+" "+v.Name] = v.Err.Error()
			}
		}
	}
	require.NoError(t, models["good"].Versions[0].Err)
	require.ErrorContains(t, models["empty"].Err, "holds no version")
	require.ErrorContains(t, models["Not a name"].Err, "is no name of a model")
	want := map[string]string{
		"faulty 1":  `outputs[0].kind: "price" is neither`,
		"faulty 2":  "model.yaml is missing",
		"faulty 3":  "saved_model.pb is missing",
		"faulty 4":  `name: is "other", but the folder is "faulty"; version: is 5, but the folder is 4`,
		"faulty 6":  `inputs[0].features[6]: is "overdue", but column 6 of the rows is "gap_ewma"; inputs[0].features[7]: is "gap_ewma"`,
		"faulty 7":  "inputs[0].shape: is [-1 9], but rows are [-1 10]",
		"faulty 8":  "is longer than",
		"faulty 9":  "saved_model.pb is not a file",
		"faulty 07": `"07" is no version`,
	}
	require.Len(t, versions, len(want))
	for key, text := range want {
		require.Contains(t, versions[key], text)
		require.Contains(t, versions[key], filepath.Join(dir, "faulty"))
	}
}

func TestRegistryLocation(t *testing.T) {
	_, err := OpenRegistry("file:./nowhere", testLayout)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "there is no directory nowhere")
	for location, want := range map[string]string{
		"s3://bucket/models":    `scheme "s3" is not supported: name a directory, like file:./models`,
		"file://host/models":    "names no directory of this machine",
		"file:":                 "the location is empty",
		"":                      "the location is empty",
		"file:registry_test.go": "not a directory",
	} {
		_, err := OpenRegistry(location, testLayout)
		require.ErrorContains(t, err, want)
	}
	_, err = OpenRegistry(".", Layout{})
	require.ErrorContains(t, err, "layout")
}
