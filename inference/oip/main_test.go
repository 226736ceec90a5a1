package oip

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"footfall/inference"
	pb "footfall/messages/inferencev2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var layout = inference.Layout{
	Features: strings.Fields("recency_days visit_days_7 visit_days_28 visit_days_84 log_spend_28 log_spend_84 gap_ewma overdue departments_28 discount_share_84"),
	Steps:    10,
	Columns:  strings.Fields("age_days gap_days log_spend departments discount_share"),
}

// models is a backend that answers with the sum of a row's first values, a hundredth of it, and
// a segment with the first value itself.
type models struct {
	mu      sync.Mutex
	loading bool
	serving []*inference.Contract
	// before is called before an answer, without the lock; its error is the answer.
	before func(inference.Request) error
	asked  []inference.Request
}

const maxRows = 2000

func contract(name string, version int, kind inference.Kind, inputs ...string) *inference.Contract {
	c := &inference.Contract{Name: name, Version: version, Outputs: []inference.Output{{Name: "p", Tensor: "output_0", Shape: []int{-1, 1}, Kind: kind}}}
	for _, in := range inputs {
		shape, names := []int{-1, 10}, layout.Features
		if in == inference.Sequence {
			shape, names = []int{-1, 10, 5}, layout.Columns
		}
		c.Inputs = append(c.Inputs, inference.Input{Name: in, Tensor: "x", Shape: shape, Features: names})
	}
	return c
}

func someModels() *models {
	return &models{serving: []*inference.Contract{
		contract("both", 1, inference.Probability, inference.Features, inference.Sequence),
		contract("dense", 3, inference.Probability, inference.Features),
		contract("dense", 2, inference.Probability, inference.Features),
		contract("groups", 1, inference.SegmentID, inference.Features),
		contract("lstm", 1, inference.Probability, inference.Sequence),
	}}
}

func (m *models) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.loading
}

func (m *models) MaxRows() int { return maxRows }

func (m *models) Serving() []*inference.Contract {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loading {
		return nil
	}
	return m.serving
}

func (m *models) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *models) Score(_ context.Context, r inference.Request) (inference.Scores, error) {
	m.mu.Lock()
	m.asked = append(m.asked, r)
	before := m.before
	m.mu.Unlock()
	if before != nil {
		if err := before(r); err != nil {
			return inference.Scores{}, err
		}
	}
	for _, c := range m.Serving() {
		if c.Name != r.Model || c.VersionString() != r.Version {
			continue
		}
		s := inference.Scores{Model: r.Model, Version: r.Version, Values: make([]float32, r.Rows)}
		for row := range s.Values {
			for _, in := range c.Inputs {
				v := matrix(r, in.Name)
				s.Values[row] += v[row*len(v)/r.Rows]
			}
			if c.Outputs[0].Kind == inference.Probability {
				s.Values[row] /= 100
			}
		}
		return s, nil
	}
	return inference.Scores{}, &inference.NotServingError{Model: r.Model, Version: r.Version}
}

// rows has the values in the first columns of its rows.
func rows(model string, values ...float32) inference.Request {
	r := inference.Request{Model: model, Rows: len(values), Features: make([]float32, 10*len(values)), Sequences: make([]float32, 50*len(values))}
	for i, v := range values {
		r.Features[i*10], r.Sequences[i*50] = v, v
	}
	return r
}

// served is a server at both doors.
type served struct {
	*models
	server *Server
	conn   *grpc.ClientConn
	stub   pb.GRPCInferenceServiceClient
	url    string
	reg    *prometheus.Registry
}

func serve(tb testing.TB, m *models) *served {
	tb.Helper()
	reg := prometheus.NewPedanticRegistry()
	metrics, err := NewMetrics(reg)
	require.NoError(tb, err)
	s := &Server{Backend: m, Version: "v-test", Timeout: time.Minute, Metrics: metrics}
	h := &Handler{Server: s, Log: slog.New(slog.DiscardHandler), Body: func(w http.ResponseWriter, r *http.Request) ([]byte, func(), error) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<20))
		return body, func() {}, err
	}}
	web := httptest.NewServer(h.Mux())
	tb.Cleanup(web.Close)
	conn := dial(tb, s)
	return &served{models: m, server: s, conn: conn, stub: pb.NewGRPCInferenceServiceClient(conn), url: web.URL, reg: reg}
}

// dial serves any implementation of the protocol and returns a connection to it.
func dial(tb testing.TB, impl pb.GRPCInferenceServiceServer) *grpc.ClientConn {
	tb.Helper()
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	pb.RegisterGRPCInferenceServiceServer(server, impl)
	pipe := bufconn.Listen(1 << 20)
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, conn.Close())
		server.Stop()
		require.NoError(tb, <-stopped)
	})
	return conn
}
