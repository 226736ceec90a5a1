package node

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"footfall/inference"
	"footfall/inference/oip"
	"footfall/messages/inferencev2"
	"footfall/node/config"
)

// linear is a runner whose models answer a hundredth of visit_days_7 and of visit_days_28.
type linear struct{ fixed }

func (linear) Load(context.Context, string, *inference.Contract, string) (inference.Session, error) {
	return linearSession{}, nil
}

type linearSession struct{ fixedSession }

func (linearSession) Run(in inference.Batch, out []float32) error {
	i := 0
	for _, piece := range in.Features {
		for ; len(piece) > 0; piece = piece[10:] {
			out[i] = piece[1]/100 + piece[2]/100
			i++
		}
	}
	return nil
}

// A customer's score is explained, and other programs have rows scored, while the shards use the
// same models.
func TestModelsAnswerCalls(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Roles = config.Roles{config.RoleShards, config.RoleInference}
	writeModel(t, c.ModelsDir, "churn_risk", "    kind: probability")
	contract := filepath.Join(c.ModelsDir, "churn_risk", "1", "model.yaml")
	text, err := os.ReadFile(contract)
	require.NoError(t, err)
	baseline := "baseline: {recency_days: 1, visit_days_7: 3, visit_days_28: 1, visit_days_84: 1, log_spend_28: 1, log_spend_84: 1, gap_ewma: 1, overdue: 1, departments_28: 1, discount_share_84: 1}\n"
	require.NoError(t, os.WriteFile(contract, append(text, baseline...), 0o600))
	n := launch(t, c, withRunner(linear{}))
	n.publish(t, purchase("7", "b", monday, "1"))
	n.idle(t)

	var got struct {
		Scores      []struct{ Value float64 }
		Explanation struct {
			Model, Version string
			Value          float64
			Baseline       float64 `json:"baseline_value"`
			Contributions  map[string]float64
		}
	}
	require.Equal(t, http.StatusOK, n.get(t, customerPath("7")+"?explain=churn_risk", &got))
	e := got.Explanation
	require.Equal(t, "churn_risk", e.Model)
	require.Equal(t, .02, e.Value)
	require.Equal(t, got.Scores[0].Value, e.Value)
	require.Equal(t, .04, e.Baseline)
	for feature, contribution := range e.Contributions {
		want := 0.0
		if feature == "visit_days_7" {
			want = -.02
		}
		require.InDelta(t, want, contribution, 1e-7, feature)
	}
	require.Len(t, e.Contributions, 10)

	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	rows := inference.Request{Model: "churn_risk", Rows: 5000, Features: make([]float32, 50_000)}
	for i := range rows.Rows {
		rows.Features[i*10+1] = float32(i % 100)
	}
	scores, err := oip.NewClient(conn, layout).Score(t.Context(), rows)
	require.NoError(t, err)
	require.Equal(t, "1", scores.Version)
	for i, v := range scores.Values {
		require.Equal(t, float32(i%100)/100, v)
	}
	_, err = inferencev2.NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), &inferencev2.ModelInferRequest{
		ModelName: "churn_risk", Inputs: []*inferencev2.ModelInferRequest_InferInputTensor{{Name: "features", Datatype: "FP32", Shape: []int64{4097, 10}}},
	})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "inputs[0].shape: has 4097 rows: 1 to 4096 can be asked for at once")
}
