package node

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/inference"
	"footfall/messages/footfallv1"
)

// sick is a runner one of whose devices runs nothing.
type sick struct {
	fixed
	device string
	ill    atomic.Bool
}

func (s *sick) Load(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Session, error) {
	session, err := s.fixed.Load(ctx, dir, c, device)
	if err != nil || device != s.device {
		return session, err
	}
	return &sickSession{session, s}, nil
}

type sickSession struct {
	inference.Session
	of *sick
}

func (s *sickSession) Run(in inference.Batch, out []float32) error {
	if s.of.ill.Load() {
		return errors.New("bus error")
	}
	return s.Session.Run(in, out)
}

// A node with two devices scores on when one of them fails, and says how they stand.
func TestDevices(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Roles = append(c.Roles, "inference")
	c.InferenceDevices = []string{"CPU:0", "CPU:1"}
	writeModel(t, c.ModelsDir, "churn_risk", "    kind: probability")
	runner := &sick{fixed: fixed{map[string]float32{"churn_risk": .25}}, device: "CPU:0"}
	n := launch(t, c, withRunner(runner))
	devices := func() string {
		cluster, err := n.GetCluster(t.Context(), &footfallv1.GetClusterRequest{})
		require.NoError(t, err)
		return strings.Join(cluster.GetMembers()[0].GetDevices(), " ")
	}
	require.Eventually(t, func() bool { return devices() == "CPU:0 CPU:1" }, time.Minute, 10*time.Millisecond, "both load")
	n.publish(t, purchase("1", "a", monday, "1.50"))
	n.idle(t)
	models, err := n.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Equal(t, "CPU:0,CPU:1", models.GetModels()[0].GetVersions()[0].GetDevice())
	require.Empty(t, n.Ready().Notes)

	runner.ill.Store(true)
	for i := 0; devices() != "CPU:0 (out) CPU:1"; i++ {
		n.publish(t, purchase("2", strings.Repeat("x", i+1), monday, "1.50"))
		n.idle(t)
		require.Less(t, i, 100)
	}
	ready := n.Ready()
	require.True(t, ready.Ready, ready.Reasons)
	require.Len(t, ready.Notes, 1)
	require.Contains(t, ready.Notes[0], "device CPU:0 is out")
	require.Contains(t, ready.Notes[0], "bus error")
	got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "2"})
	require.NoError(t, err)
	require.Len(t, got.GetScores(), 1)
	require.InDelta(t, .25, got.GetScores()[0].GetValue(), 1e-6)

	runner.ill.Store(false)
	require.Eventually(t, func() bool { return devices() == "CPU:0 CPU:1" }, time.Minute, 10*time.Millisecond, "it comes back")
}
