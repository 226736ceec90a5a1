package members_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/inference"
	"footfall/messages/footfallv1"
)

// byVersion is a runner whose models answer a tenth of their version.
type byVersion struct{ steady }

func (byVersion) Load(_ context.Context, _ string, c *inference.Contract, _ string) (inference.Session, error) {
	if c.Description == "broken" {
		return nil, errors.New("bad magic number")
	}
	return steady(c.Version) / 10, nil
}

const tried = "churn_risk"

// addVersion puts a version beside those that there are.
func addVersion(t *testing.T, dir, version string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, tried, "1", "model.yaml"))
	require.NoError(t, err)
	part := filepath.Join(dir, tried, "."+version)
	require.NoError(t, os.MkdirAll(part, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(part, "saved_model.pb"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(part, "model.yaml"), []byte(strings.Replace(string(text), "version: 1\n", "version: "+version+"\n", 1)), 0o600))
	require.NoError(t, os.Rename(part, filepath.Join(dir, tried, version)))
}

// stands is how the versions of the model stand at one node of a cluster, whoever is asked: "1 serving, 2 canary".
func stands(t *testing.T, asked *member, node string) string {
	t.Helper()
	list, err := asked.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	var at []string
	for _, m := range list.GetModels() {
		for _, v := range m.GetVersions() {
			for _, p := range v.GetPlaces() {
				if p.GetNode() == node {
					at = append([]string{v.GetVersion() + " " + p.GetState()}, at...)
				}
			}
		}
	}
	return strings.Join(at, ", ")
}

// decided is what was decided about the model, as a node says.
func decided(t *testing.T, m *member) *footfallv1.Model {
	t.Helper()
	list, err := m.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	if len(list.GetModels()) == 0 {
		return nil
	}
	return list.GetModels()[0]
}

// scored is how many customers have a score of each version.
func scored(t *testing.T, m *member) map[string]int {
	t.Helper()
	count := map[string]int{}
	for i := range customers {
		c, err := m.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer(i)})
		require.NoError(t, err)
		for _, s := range c.GetScores() {
			count[s.GetVersion()]++
		}
	}
	return count
}

// TestRolloutsAreShared has two nodes with devices and one with the shards on one store: what is decided at one is served by
// all, lives through a kill of who decided it, and is decided on at another. Customers that do not change get the new scores.
func TestRolloutsAreShared(t *testing.T) {
	w := newWorld(t)
	models := modelDir(t)
	shardsOnly := w.spec("shards")
	shardsOnly.Models = models
	folds := launch(t, shardsOnly)
	owners(t, folds)
	with := func(name string) spec {
		s := w.spec(name, folds)
		s.Models, s.ByVersion, s.Watch = models, true, 100*time.Millisecond
		return s
	}
	first, second := spawn(t, with("first")), spawn(t, with("second"))
	eventually := func(what string, ok func() bool) {
		t.Helper()
		require.Eventually(t, ok, time.Minute, 20*time.Millisecond, what)
	}
	all := func(version string) {
		t.Helper()
		eventually("all customers have scores of "+version, func() bool { return scored(t, folds)[version] == customers })
	}
	at := func(want string, asked *member, nodes ...string) {
		t.Helper()
		for _, n := range nodes {
			eventually("at "+n+": "+want, func() bool { return stands(t, asked, n) == want })
		}
	}
	for i := range customers {
		_, err := w.publish(t.Context(), folds, customer(i))
		require.NoError(t, err)
	}
	all("1")
	at("1 serving", folds, "first", "second")
	eventually("what serves is written down", func() bool { return decided(t, folds).GetGeneration() == 1 })

	// The other one follows.
	addVersion(t, models, "2")
	_, err := first.CanaryModel(t.Context(), &footfallv1.CanaryModelRequest{Name: tried, Version: "2", Share: .4})
	require.NoError(t, err)
	at("1 serving, 2 canary", second, "first", "second")
	was := decided(t, second)
	require.Equal(t, "first", was.GetEvents()[0].GetNode())
	require.Equal(t, uint64(2), was.GetGeneration())
	require.InDelta(t, .4, was.GetVersions()[0].GetTraffic(), 1e-9)

	// Who began it is killed, and comes back to the same.
	require.NoError(t, first.cmd.Process.Kill())
	require.Error(t, first.wait())
	require.Eventually(t, func() bool {
		for i := range customers { // they change, and are scored again once the shards' node has heard of the canary
			_, err := w.publish(t.Context(), folds, customer(i))
			require.NoError(t, err)
		}
		some := scored(t, folds)
		return some["1"]+some["2"] == customers && some["2"] > customers/6 && some["2"] < customers*2/3
	}, time.Minute, 500*time.Millisecond, "some customers have scores of the canary, of a node that was not asked for it")
	first = spawn(t, with("first"))
	at("1 serving, 2 canary", first, "first", "second")
	is := decided(t, first)
	require.Equal(t, was.GetGeneration(), is.GetGeneration())
	require.Equal(t, was.GetEvents()[0].GetTime().AsTime(), is.GetEvents()[0].GetTime().AsTime())
	require.InDelta(t, .4, is.GetVersions()[0].GetTraffic(), 1e-9)

	// The other one goes on with it.
	_, err = second.PromoteModel(t.Context(), &footfallv1.PromoteModelRequest{Name: tried})
	require.NoError(t, err)
	at("2 serving", first, "first", "second")
	all("2")
	_, err = first.RollbackModel(t.Context(), &footfallv1.RollbackModelRequest{Name: tried, Reason: "too many false alarms"})
	require.NoError(t, err)
	at("1 serving, 2 refused", folds, "first", "second")
	all("1")
}
