package members_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"footfall/behavior"
	"footfall/inference"
	"footfall/inference/oip"
	"footfall/messages/footfallv1"
	"footfall/messages/inferencev2"
)

// steady is a runner all of whose models answer the same.
type steady float32

func (steady) Version() string { return "steady" }

func (s steady) Load(context.Context, string, *inference.Contract, string) (inference.Session, error) {
	return s, nil
}

func (s steady) Run(in inference.Batch, out []float32) error {
	for i := range in.Rows {
		out[i] = float32(s)
	}
	return nil
}

func (steady) Close() error { return nil }

// modelDir holds one model that any runner may pretend to run.
func modelDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := filepath.Join(dir, "churn_risk", "1")
	require.NoError(t, os.MkdirAll(at, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(at, "saved_model.pb"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(at, "model.yaml"), []byte(`name: churn_risk
version: 1
description: test
inputs:
  - name: features
    tensor: features
    shape: [-1, 10]
    features: [`+strings.Join(behavior.FeatureNames[:], ", ")+`]
outputs:
  - name: out
    tensor: output_0
    shape: [-1, 1]
    kind: probability
data: {source: test, digest: "sha256:`+strings.Repeat("0", 64)+`", rows: 1, days: [1, 2]}
evaluation: {auc: 0.9}
trained_with: {keras: 3.12.0, tensorflow: 2.21.0, seed: 1}
created: 2026-01-01T00:00:00Z
`), 0o600))
	return dir
}

// scoredWith waits until a customer's newest event is in a score of this value.
func (w *world) scoredWith(t *testing.T, m *member, customer string, want float32) {
	t.Helper()
	id, err := w.publish(t.Context(), m, customer)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		c, err := m.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer, WaitFor: id})
		require.NoError(t, err)
		for _, s := range c.GetScores() {
			if s.GetModel() == "churn_risk" && float32(s.GetValue()) == want && s.GetOffset() >= c.GetAsOf().GetOffset() {
				return true
			}
		}
		return false
	}, time.Minute, 10*time.Millisecond, "customer %s is scored with %v", customer, want)
}

// unscored is how many customers wait for scores, as a node says.
func unscored(t *testing.T, m *member) (n uint64) {
	t.Helper()
	list, err := m.ListShards(t.Context(), &footfallv1.ListShardsRequest{})
	require.NoError(t, err)
	for _, s := range list.GetShards() {
		n += s.GetUnscored()
	}
	return n
}

// A node without models is scored for by members that have devices, whoever comes and goes:
// meanwhile it folds on, and its customers wait.
func TestMembersScoreForOthers(t *testing.T) {
	w := newWorld(t)
	models := modelDir(t)
	folds := launch(t, w.spec("folds"))
	owners(t, folds)
	id, err := w.publish(t.Context(), folds, customer(0))
	require.NoError(t, err)
	c, err := folds.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer(0), WaitFor: id})
	require.NoError(t, err, "nobody has devices: it is folded all the same")
	require.Empty(t, c.GetScores())
	require.Equal(t, uint64(1), unscored(t, folds))
	require.Contains(t, strings.Join(folds.node.Ready().Notes, "\n"), "no member with devices is there")

	with := func(name string, score float32) *member {
		s := w.spec(name, folds)
		s.Models, s.Score = models, score
		return spawn(t, s)
	}
	first := with("first", .25)
	w.scoredWith(t, folds, customer(1), .25)
	require.Eventually(t, func() bool { return unscored(t, folds) == 0 }, time.Minute, 10*time.Millisecond, "who waited is scored, too")
	listed, err := folds.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Equal(t, "churn_risk", listed.GetModels()[0].GetName())

	for i := range customers {
		_, err := w.publish(t.Context(), folds, customer(i))
		require.NoError(t, err)
	}
	w.scoredWith(t, folds, customer(customers-1), .25)

	// It is killed; folding goes on.
	l := w.load(t, folds)
	require.NoError(t, first.cmd.Process.Kill())
	require.Error(t, first.wait())
	for i := range customers {
		id, err := w.publish(t.Context(), folds, customer(i))
		require.NoError(t, err)
		_, err = folds.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer(i), WaitFor: id})
		require.NoError(t, err)
	}
	require.Positive(t, unscored(t, folds))

	// Another one takes over, and catches up.
	with("second", .75)
	w.scoredWith(t, folds, customer(2), .75)
	l.end(t, "without devices for a while")
	require.Eventually(t, func() bool { return unscored(t, folds) == 0 }, time.Minute, 10*time.Millisecond)
	for i := range customers {
		c, err := folds.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: customer(i)})
		require.NoError(t, err)
		require.Len(t, c.GetScores(), 1, customer(i))
	}
}

// halves is a server of the protocol that is no node.
type halves struct{ contracts []*inference.Contract }

func (halves) Ready() bool                      { return true }
func (h halves) Serving() []*inference.Contract { return h.contracts }
func (halves) MaxRows() int                     { return 4096 }
func (halves) Score(_ context.Context, r inference.Request) (inference.Scores, error) {
	s := inference.Scores{Model: r.Model, Version: "1", Values: make([]float32, r.Rows)}
	for i := range s.Values {
		s.Values[i] = .5
	}
	return s, nil
}

// A server that is no member is used where the configuration names it.
func TestOutsideServersScore(t *testing.T) {
	w := newWorld(t)
	models := modelDir(t)
	c, err := inference.ReadContract(filepath.Join(models, "churn_risk", "1"))
	require.NoError(t, err)
	metrics, err := oip.NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	server := grpc.NewServer()
	inferencev2.RegisterGRPCInferenceServiceServer(server, &oip.Server{Backend: halves{[]*inference.Contract{c}}, Version: "v", Timeout: time.Minute, Metrics: metrics})
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it listens at once
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-ended)
	})
	s := w.spec("alone")
	s.Models, s.Servers = models, []string{l.Addr().String()}
	n := launch(t, s)
	owners(t, n)
	w.scoredWith(t, n, customer(3), .5)
	require.Empty(t, n.node.Ready().Notes)
}
