package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference"
	"footfall/messages/footfallv1"
	"footfall/messages/inferencev2"
)

// scriptedModels answers a row with a hundredth of its first value. The models that a node
// really runs are asked in the tests of package node.
type scriptedModels struct {
	loading bool
	none    bool
	err     error
}

func (q *scriptedModels) Ready() bool  { return !q.loading }
func (q *scriptedModels) MaxRows() int { return 100 }

func (q *scriptedModels) Serving() []*inference.Contract {
	if q.none || q.loading {
		return nil
	}
	in := []inference.Input{{Name: inference.Features, Shape: []int{-1, 10}, Features: behavior.FeatureNames[:]}}
	baseline := map[string]float32{}
	for _, name := range behavior.FeatureNames {
		baseline[name] = 1
	}
	out := func(k inference.Kind) []inference.Output {
		return []inference.Output{{Name: "p", Shape: []int{-1, 1}, Kind: k}}
	}
	return []*inference.Contract{
		{Name: "bare", Version: 1, Inputs: in, Outputs: out(inference.Probability)},
		{Name: "churn_risk", Version: 2, Inputs: in, Outputs: out(inference.Probability), Baseline: baseline},
		{Name: "customer_segmentation", Version: 1, Inputs: in, Outputs: out(inference.SegmentID)},
	}
}

func (q *scriptedModels) Score(_ context.Context, r inference.Request) (inference.Scores, error) {
	if q.err != nil {
		return inference.Scores{}, q.err
	}
	s := inference.Scores{Model: r.Model, Version: r.Version}
	for row := range r.Rows {
		s.Values = append(s.Values, r.Features[row*10]/100)
	}
	return s, nil
}

func (q *scriptedModels) Explain(ctx context.Context, model string, features, sequence []float32) (*inference.Explanation, error) {
	l := inference.Layout{Features: behavior.FeatureNames[:], Steps: 10, Columns: behavior.SequenceNames[:]}
	for _, c := range q.Serving() {
		if c.Name == model {
			return inference.Explain(ctx, c, l, features, sequence, q.Score)
		}
	}
	return nil, &inference.NotServingError{Model: model}
}

type scriptedRooms struct {
	segments
	queries *scriptedModels
}

func (r scriptedRooms) Queries() Queries { return r.queries }

func withQueries(q *scriptedModels, more ...func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Models = scriptedRooms{queries: q}
		for _, f := range more {
			f(o)
		}
	}
}

func TestExplain(t *testing.T) {
	s := serve(t, &scripted{answer: customer(t, "900")}, withQueries(&scriptedModels{}))
	r := s.get(t, "/v1/customers/900?explain=churn_risk")
	require.Equal(t, http.StatusOK, r.code, r.body)
	var got struct {
		Features    map[string]float64
		Explanation *struct {
			Model, Version string
			Value          float64
			BaselineValue  float64 `json:"baseline_value"`
			Contributions  map[string]float64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.body), &got))
	e := got.Explanation
	require.NotNil(t, e, r.body)
	require.Equal(t, []string{"churn_risk", "2"}, []string{e.Model, e.Version})
	require.Equal(t, .01, e.BaselineValue)
	require.InDelta(t, got.Features["recency_days"]/100, e.Value, 1e-6)
	require.Len(t, e.Contributions, 10)
	sum := 0.0
	for name, v := range e.Contributions {
		sum += v
		if name != "recency_days" {
			require.Zero(t, v, name)
		}
	}
	require.NotZero(t, sum)
	require.InDelta(t, e.Value-e.BaselineValue, sum, 1e-6)

	plain := s.get(t, "/v1/customers/900")
	require.NotContains(t, plain.body, "explanation")
}

func TestExplainRefuses(t *testing.T) {
	host := &scripted{answer: customer(t, "900")}
	for _, test := range []struct {
		name  string
		o     func(*Options)
		model string
		code  int
		want  Error
	}{
		{"unknown", withQueries(&scriptedModels{}), "gpt", 400, Error{"invalid_argument", `explain: no model "gpt" serves: bare, churn_risk, customer_segmentation do`, "explain"}},
		{"segments", withQueries(&scriptedModels{}), "customer_segmentation", 400, Error{"invalid_argument", "explain: customer_segmentation: it answers a segment, and contributions add up to a number", "explain"}},
		{"no baseline", withQueries(&scriptedModels{}), "bare", 400, Error{"invalid_argument", "explain: bare has no baseline for recency_days: its model.yaml needs bins or a baseline for it", "explain"}},
		{"no models here", func(*Options) {}, "churn_risk", 400, Error{"failed_precondition", "explain: this node runs no models: ask one with the role inference", ""}},
		{"none serves", withQueries(&scriptedModels{none: true}), "churn_risk", 400, Error{"invalid_argument", "explain: no model serves on this node", "explain"}},
		{"loading", withQueries(&scriptedModels{loading: true}), "churn_risk", 503, Error{"unavailable", "explain: the models are being loaded: try again", ""}},
		{"busy", withQueries(&scriptedModels{err: inference.ErrBusy}), "churn_risk", 429, Error{"resource_exhausted", inference.ErrBusy.Error(), ""}},
		{"closing", withQueries(&scriptedModels{err: inference.ErrClosed}), "churn_risk", 503, Error{"unavailable", inference.ErrClosed.Error(), ""}},
		{"late", withQueries(&scriptedModels{err: context.DeadlineExceeded}), "churn_risk", 504, Error{"deadline_exceeded", "not done within the deadline", ""}},
		{"unloaded meanwhile", withQueries(&scriptedModels{err: &inference.NotServingError{Model: "churn_risk"}}), "churn_risk", 500, Error{"internal", `inference: no model "churn_risk" serves`, ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, host, test.o)
			r := s.get(t, "/v1/customers/900?explain="+test.model)
			require.Equal(t, test.code, r.code, r.body)
			require.Equal(t, test.want, r.err(t))
		})
	}
	s := serve(t, &scripted{askErr: &actors.NotFoundError{CustomerID: "901"}}, withQueries(&scriptedModels{}))
	_, err := s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "901", Explain: "churn_risk"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

// The protocol is at both doors, under the node's limits.
func TestInferenceProtocol(t *testing.T) {
	state := "active"
	s := serve(t, &scripted{}, withQueries(&scriptedModels{}, func(o *Options) {
		o.Limits.Message, o.Limits.Ingest = 4096, 4096
		o.State = func() string { return state }
	}))
	row := strings.Repeat("0,", 9) + "0"
	body := `{"inputs":[{"name":"features","datatype":"FP32","shape":[1,10],"data":[[50,` + row[2:] + `]]}]}`
	r := s.post(t, "/v2/models/churn_risk/infer", body)
	require.Equal(t, http.StatusOK, r.code, r.body)
	require.JSONEq(t, `{"model_name":"churn_risk","model_version":"2","outputs":[{"name":"p","datatype":"FP32","shape":[1,1],"data":[0.5]}]}`, r.body)

	stub := inferencev2.NewGRPCInferenceServiceClient(s.conn)
	ready := func() bool {
		answer, err := stub.ServerReady(t.Context(), &inferencev2.ServerReadyRequest{})
		require.NoError(t, err)
		return answer.GetReady()
	}
	require.True(t, ready())
	response, err := stub.ModelInfer(t.Context(), &inferencev2.ModelInferRequest{ModelName: "churn_risk", Inputs: []*inferencev2.ModelInferRequest_InferInputTensor{{
		Name: "features", Datatype: "FP32", Shape: []int64{1, 10}, Contents: &inferencev2.InferTensorContents{Fp32Contents: make([]float32, 10)},
	}}})
	require.NoError(t, err)
	require.Equal(t, []float32{0}, response.GetOutputs()[0].GetContents().GetFp32Contents())

	s.api.SetReady(true)
	health, err := healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "inference.GRPCInferenceService"})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, health.GetStatus())

	large := s.do(t, http.MethodPost, "/v2/models/churn_risk/infer", typeJSON, bytes.NewReader(make([]byte, 4097)))
	require.Equal(t, http.StatusRequestEntityTooLarge, large.code)
	require.JSONEq(t, `{"error":"body: is larger than 4096 bytes: send several requests"}`, large.body)
	packed := s.do(t, http.MethodPost, "/v2/models/churn_risk/infer", typeJSON, strings.NewReader(body), "Content-Encoding", "br")
	require.Equal(t, http.StatusBadRequest, packed.code)
	foreign := s.do(t, http.MethodPost, "/v2/models/churn_risk/infer", typeJSON, strings.NewReader(body), "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, foreign.code)

	state = stateDraining
	require.False(t, ready())
	require.Equal(t, http.StatusBadRequest, s.get(t, "/v2/health/ready").code)
	require.Equal(t, http.StatusOK, s.get(t, "/v2/health/live").code)

	require.NotZero(t, s.series(t, "footfall_oip_requests_total")["model_infer"])

	without := serve(t, &scripted{})
	require.Equal(t, http.StatusNotFound, without.get(t, "/v2").code)
}
