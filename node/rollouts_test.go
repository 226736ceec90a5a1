package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
	"footfall/messages/footfallv1"
)

// versioned is a runner whose models answer a tenth of their version.
type versioned struct{ fixed }

func (v versioned) Load(ctx context.Context, dir string, c *inference.Contract, device string) (inference.Session, error) {
	if c.Description == "broken" {
		return nil, errors.New("bad magic number")
	}
	return fixed{map[string]float32{c.Name: float32(c.Version) / 10}}.Load(ctx, dir, c, device)
}

func addVersion(t *testing.T, dir, version, about string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "churn_risk", "1", "model.yaml"))
	require.NoError(t, err)
	yaml := strings.Replace(string(text), "version: 1\n", "version: "+version+"\n", 1)
	from := strings.Index(yaml, "description:")
	yaml = yaml[:from] + "description: " + about + yaml[from+strings.Index(yaml[from:], "\n"):]
	part := filepath.Join(dir, "churn_risk", "."+version)
	require.NoError(t, os.MkdirAll(part, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(part, "saved_model.pb"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(part, "model.yaml"), []byte(yaml), 0o600))
	require.NoError(t, os.Rename(part, filepath.Join(dir, "churn_risk", version)))
}

// A version is tried on some customers, promoted and rolled back, and each time customers have its scores without doing anything;
// a restart changes nothing.
func TestRollouts(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Roles = append(c.Roles, "inference")
	c.ModelsWatch, c.ModelsCanary = 20*time.Millisecond, 0
	writeModel(t, c.ModelsDir, "churn_risk", "    kind: probability")
	runner := versioned{}
	n := launch(t, c, withRunner(runner))
	const customers = 60
	for i := range customers {
		n.publish(t, purchase(fmt.Sprint(i), fmt.Sprint("e", i), monday, "1.50"))
	}
	n.idle(t)
	scores := func() map[string]int {
		t.Helper()
		count := map[string]int{}
		for i := range customers {
			got, err := n.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: fmt.Sprint(i)})
			require.NoError(t, err)
			for _, s := range got.GetScores() {
				require.Equal(t, fmt.Sprintf("0.%s", s.GetVersion()), fmt.Sprintf("%.1f", s.GetValue()))
				count[s.GetVersion()]++
			}
		}
		return count
	}
	all := func(version string) {
		t.Helper()
		require.Eventually(t, func() bool { return scores()[version] == customers }, time.Minute, 20*time.Millisecond, "all have scores of %s: %v", version, scores())
	}
	all("1")
	require.Eventually(t, func() bool {
		list, err := n.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
		return err == nil && list.GetModels()[0].GetGeneration() == 1
	}, time.Minute, 10*time.Millisecond, "what serves is written down")

	addVersion(t, c.ModelsDir, "2", "a new one")
	addVersion(t, c.ModelsDir, "3", "broken")
	m, err := n.CanaryModel(t.Context(), &footfallv1.CanaryModelRequest{Name: "churn_risk", Version: "2", Share: .4})
	require.NoError(t, err)
	require.Equal(t, "canary", m.GetVersions()[1].GetState())
	require.InDelta(t, .4, m.GetVersions()[1].GetTraffic(), 1e-9)
	require.InDelta(t, .6, m.GetVersions()[2].GetTraffic(), 1e-9)
	for i := range customers { // they change, and are scored again
		n.publish(t, purchase(fmt.Sprint(i), fmt.Sprint("f", i), monday, "1.50"))
	}
	n.idle(t)
	some := scores()
	require.Equal(t, customers, some["1"]+some["2"])
	require.True(t, some["2"] > customers/6 && some["2"] < customers*2/3, "%v", some)

	_, err = n.PromoteModel(t.Context(), &footfallv1.PromoteModelRequest{Name: "churn_risk"})
	require.NoError(t, err)
	all("2")
	_, err = n.PromoteModel(t.Context(), &footfallv1.PromoteModelRequest{Name: "churn_risk", Version: "3"})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.ErrorContains(t, err, "version 3 of churn_risk can't be loaded")
	require.ErrorContains(t, err, "bad magic number")
	_, err = n.ShadowModel(t.Context(), &footfallv1.ShadowModelRequest{Name: "churn_risk", Version: "9"})
	require.Equal(t, codes.NotFound, status.Code(err))
	_, err = n.CanaryModel(t.Context(), &footfallv1.CanaryModelRequest{Name: "churn_risk", Version: "2", Limits: &footfallv1.RolloutLimits{Slowdown: .5}})
	require.ErrorContains(t, err, "limits.slowdown: is 0.5: 1 to 1e+06 are possible, and 0 for the default")
	_, err = n.CanaryModel(t.Context(), &footfallv1.CanaryModelRequest{Name: "churn_risk", Version: "2", Limits: &footfallv1.RolloutLimits{ErrorShare: math.NaN()}})
	require.ErrorContains(t, err, "limits.error_share: is NaN: 0 to 1 are possible")
	_, err = n.CanaryModel(t.Context(), &footfallv1.CanaryModelRequest{Name: "churn_risk", Version: "1", Share: 1})
	require.Equal(t, codes.InvalidArgument, status.Code(err))

	n.halt(t)
	n = launch(t, c, withRunner(runner))
	require.Eventually(t, func() bool { return n.Ready().Ready }, time.Minute, 10*time.Millisecond)
	list, err := n.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"idle", "serving", "idle"}, []string{
		list.GetModels()[0].GetVersions()[0].GetState(), list.GetModels()[0].GetVersions()[1].GetState(), list.GetModels()[0].GetVersions()[2].GetState(),
	})
	all("2")
	m, err = n.RollbackModel(t.Context(), &footfallv1.RollbackModelRequest{Name: "churn_risk", Reason: "too many false alarms"})
	require.NoError(t, err)
	require.Equal(t, "too many false alarms", m.GetEvents()[0].GetReason())
	require.Equal(t, "refused", m.GetVersions()[1].GetState())
	all("1")
}
