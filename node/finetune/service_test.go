package finetune

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"footfall/behavior"
	"footfall/datasets"
	"footfall/datasets/datasetstest"
	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/inference/tensorflow"
	"footfall/messages/footfallv1"
	"footfall/node/export"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var layout = inference.Layout{Features: behavior.FeatureNames[:], Steps: 10, Columns: behavior.SequenceNames[:]}

// realRows exports weekly rows of a few months of Complete Journey.
func realRows(t *testing.T) string {
	t.Helper()
	data := datasetstest.Open(t, "completejourney")
	labels, err := datasets.NewLabels(t.Context(), data)
	require.NoError(t, err)
	cal := behavior.NewCalendar(data.Location)
	known := func(id string, day int32) (purchase7d, churn28d, redeem28d *bool) {
		l := labels.At(id, time.UnixMilli(cal.LastMilli(day)))
		return &l.Purchase7d, &l.Churn28d, nil
	}
	path := filepath.Join(t.TempDir(), "rows.parquet")
	require.NoError(t, export.File(path, func(w io.Writer) error {
		out := export.NewParquet(w, export.Fact{Key: "footfall.source", Value: data.Name})
		src := export.Source{Name: data.Name, Digest: data.Digest, Location: data.Location, Currency: data.Currency, Events: data.Events(t.Context())}
		days := export.Days{From: data.FirstDay + 180, To: data.FirstDay + 260, Every: export.Weekly}
		if _, err := export.Features(t.Context(), src, days, known, out, nil); err != nil {
			return err
		}
		return out.Close()
	}))
	return path
}

// rig is the service of a node that runs models, without the node.
type rig struct {
	footfallv1.FineTuneServiceClient
	service *Service
	store   *modelstore.Store
	runner  *tensorflow.Runner
	dir     string
	metrics *Metrics
}

// newRig serves from a directory with a copy of a model, after change has been at it.
func newRig(t *testing.T, model string, change func(dir string)) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir()}
	at := filepath.Join(r.dir, model, "1")
	require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
	require.NoError(t, os.CopyFS(at, os.DirFS(filepath.Join("..", "..", "models", model, "1"))))
	var err error
	r.runner, err = tensorflow.New(tensorflow.Options{})
	require.NoError(t, err)
	if change != nil {
		change(at)
	}
	r.store, err = modelstore.Open(t.Context(), "file:"+r.dir, modelstore.Options{Layout: layout})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.store.Close()) })
	r.metrics, err = NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	r.service = &Service{
		Node: "here", Layout: layout, Runner: r.runner, Publisher: r.store, Waiting: func() int { return 0 },
		Clock: inference.SystemClock(), Log: slog.New(slog.DiscardHandler), Metrics: r.metrics,
		Origin: func(_ context.Context, name string) (Origin, error) {
			if name != model {
				return Origin{}, &inference.NotServingError{Model: name}
			}
			c, err := inference.ReadContract(at)
			return Origin{Contract: c, Dir: at, Device: "CPU:0"}, err
		},
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	footfallv1.RegisterFineTuneServiceServer(server, r.service)
	pipe := bufconn.Listen(1 << 20)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		server.Stop()
		require.NoError(t, <-ended)
	})
	r.FineTuneServiceClient = footfallv1.NewFineTuneServiceClient(conn)
	return r
}

// worsened trains the version in a directory on the opposite of what happened.
func worsened(t *testing.T, r *tensorflow.Runner, dir, rows, label string) {
	t.Helper()
	c, err := inference.ReadContract(dir)
	require.NoError(t, err)
	trainer, err := r.Trainer(t.Context(), dir, c, "CPU:0")
	require.NoError(t, err)
	table := newTable(layout, c, 1<<30)
	each(t, rows, label, func(m *footfallv1.FineTuneRows) {
		for i := range m.GetLabels() {
			m.Labels[i] = !m.Labels[i]
		}
		require.NoError(t, table.add(m))
	})
	all := make([]int32, 4096)
	for i := range all {
		all[i] = int32(i)
	}
	var batch inference.Batch
	labels := table.gather(all, &batch, nil)
	for range 15 {
		_, err := trainer.Step(batch, labels, 1e-2)
		require.NoError(t, err)
	}
	worse := t.TempDir()
	require.NoError(t, trainer.Save(worse))
	require.NoError(t, trainer.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "variables")))
	require.NoError(t, os.CopyFS(filepath.Join(dir, "variables"), os.DirFS(filepath.Join(worse, "variables"))))
}

// each reads a file's rows, a few hundred at a time.
func each(t *testing.T, path, label string, f func(*footfallv1.FineTuneRows)) {
	t.Helper()
	r, err := export.OpenReader(path, label, false)
	require.NoError(t, err)
	for {
		var b export.Labelled
		err := r.Next(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		f(&footfallv1.FineTuneRows{Features: b.Features, Labels: b.Labels, Days: b.Days, Customers: b.Customers})
	}
	require.NoError(t, r.Close())
}

// begun starts a call and returns what the node is ready for.
func (r *rig) begun(t *testing.T, ctx context.Context, start *footfallv1.FineTuneStart) (footfallv1.FineTuneService_FineTuneClient, *footfallv1.FineTuneReady, error) { //nolint:revive // as testify has it
	t.Helper()
	stream, err := r.FineTune(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&footfallv1.FineTuneRequest{Part: &footfallv1.FineTuneRequest_Start{Start: start}}))
	p, err := stream.Recv()
	return stream, p.GetReady(), err
}

func send(t *testing.T, stream footfallv1.FineTuneService_FineTuneClient, m *footfallv1.FineTuneRows) {
	t.Helper()
	err := stream.Send(&footfallv1.FineTuneRequest{Part: &footfallv1.FineTuneRequest_Rows{Rows: m}})
	if !errors.Is(err, io.EOF) { // the node has said why: Recv tells
		require.NoError(t, err)
	}
}

// end waits for the result.
func end(t *testing.T, stream footfallv1.FineTuneService_FineTuneClient) (epochs []*footfallv1.FineTuneEpoch, result *footfallv1.FineTuneResult, err error) {
	t.Helper()
	require.NoError(t, stream.CloseSend())
	for {
		p, err := stream.Recv()
		if err != nil {
			return epochs, nil, err
		}
		if p.GetResult() != nil {
			return epochs, p.GetResult(), nil
		}
		epochs = append(epochs, p.GetEpoch())
	}
}

// A model that knows little learns from real rows what happened, beside the traffic that it serves,
// and becomes the next version.
func TestFineTuneLearns(t *testing.T) {
	rows := realRows(t)
	r := newRig(t, "purchase_prediction", func(dir string) {
		runner, err := tensorflow.New(tensorflow.Options{})
		require.NoError(t, err)
		worsened(t, runner, dir, rows, "purchase_7d")
	})
	registry, _, err := r.store.Refresh(t.Context())
	require.NoError(t, err)
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	pool, err := inference.StartPool(t.Context(), inference.PoolConfig{Config: inference.Config{System: system, Registry: registry, Runner: r.runner}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, pool.Close())
		system.Shutdown()
	})
	r.service.Waiting = func() int { return pool.Status()[0].Load }

	// Somebody asks all the while.
	asking, stop := context.WithCancel(t.Context())
	var (
		traffic sync.WaitGroup
		served  int
		wrong   error
	)
	traffic.Go(func() {
		row := make([]float32, 10)
		for asking.Err() == nil {
			replies := make(chan inference.Reply, 1)
			if pool.Score(&inference.Request{Rows: 1, Features: row, Sequences: make([]float32, 50), Reply: func(a inference.Reply) { replies <- a }}) {
				wrong = errors.Join(wrong, (<-replies).Err)
				served++
			}
		}
	})

	stream, ready, err := r.begun(t, t.Context(), &footfallv1.FineTuneStart{Model: "purchase_prediction", Epochs: 3, LearningRate: 3e-3, Source: "autumn"})
	require.NoError(t, err)
	require.Equal(t, "purchase_7d", ready.GetLabel())
	require.Equal(t, []string{"features"}, ready.GetInputs())
	_, _, busy := r.begun(t, t.Context(), &footfallv1.FineTuneStart{Model: "purchase_prediction"})
	require.Equal(t, codes.ResourceExhausted, status.Code(busy), "one at a time")
	total := 0
	each(t, rows, ready.GetLabel(), func(m *footfallv1.FineTuneRows) {
		total += len(m.GetLabels())
		send(t, stream, m)
	})
	epochs, result, err := end(t, stream)
	require.NoError(t, err)
	stop()
	traffic.Wait()
	require.NoError(t, wrong)
	require.Positive(t, served)
	require.Len(t, epochs, 4)
	require.Empty(t, result.GetRefused())
	require.Equal(t, "2", result.GetVersion())
	t.Logf("log-loss %.4f to %.4f, AUC %.4f to %.4f, %d rows, %.1f s, %d requests served meanwhile",
		result.GetBefore().GetLogLoss(), result.GetAfter().GetLogLoss(), result.GetBefore().GetAuc(), result.GetAfter().GetAuc(), total, result.GetSeconds(), served)
	require.Less(t, result.GetAfter().GetLogLoss(), .55, "what the rows have to tell")
	require.Greater(t, result.GetBefore().GetLogLoss(), result.GetAfter().GetLogLoss()+.05)
	require.Equal(t, splitDays, result.GetSplit())
	require.Zero(t, result.GetLeftOut(), "a week before the days that judge is just early enough for seven days")
	require.Equal(t, uint64(total), result.GetTrained()+result.GetLeftOut()+result.GetBefore().GetRows())

	// The new version is whole, says where it comes from, and serves like any other.
	registry, _, err = r.store.Refresh(t.Context())
	require.NoError(t, err)
	v, ok := registry.Version("purchase_prediction", "2")
	require.True(t, ok)
	require.NoError(t, v.Err)
	require.Equal(t, 1, v.Contract.Parent)
	require.Equal(t, "autumn", v.Contract.Data.Source)
	require.Equal(t, result.GetDigest(), v.Contract.Data.Digest)
	require.InDelta(t, result.GetAfter().GetLogLoss(), v.Contract.Evaluation["log_loss"], 1e-5)
	require.InDelta(t, result.GetBefore().GetLogLoss(), v.Contract.Evaluation["parent_log_loss"], 1e-5)
	require.Len(t, v.Contract.Bins, 10)
	require.NotEmpty(t, v.Contract.Files)
	require.InDelta(t, 1, testutil.ToFloat64(r.metrics.runs.WithLabelValues("purchase_prediction", outcomePublished)), 0)
}

// What is no better is not published, and neither is what steps have torn apart.
func TestFineTuneRefuses(t *testing.T) {
	r := newRig(t, "purchase_prediction", nil)
	for name, start := range map[string]*footfallv1.FineTuneStart{
		"opposite": {LearningRate: 1e-2, Epochs: 2},
		"astray":   {LearningRate: 1, Epochs: 3},
	} {
		start.Model = "purchase_prediction"
		stream, _, err := r.begun(t, t.Context(), start)
		require.NoError(t, err)
		for day := range int32(10) {
			m := made(100, day*7)
			if day < 8 {
				for i := range m.GetLabels() {
					m.Labels[i] = !m.Labels[i]
				}
			}
			send(t, stream, m)
		}
		_, result, err := end(t, stream)
		require.NoError(t, err, name)
		require.Contains(t, result.GetRefused(), "its log-loss on the rows that judge", name)
		require.Empty(t, result.GetVersion())
	}
	require.NoDirExists(t, filepath.Join(r.dir, "purchase_prediction", "2"))
}

// made are rows of a day that the model does well on.
func made(n int, day int32) *footfallv1.FineTuneRows {
	m := &footfallv1.FineTuneRows{}
	for i := range n {
		row := []float32{80, 0, 0, 1, 0, 3, 40, 2, 0, .1}
		if i%2 == 0 {
			row = []float32{.5, 4, 16, 40, 6, 7, 2, .2, 8, .1}
		}
		row[0] += float32(i%10) / 100
		m.Features, m.Labels = append(m.Features, row...), append(m.Labels, i%2 == 0)
		m.Days, m.Customers = append(m.Days, day), append(m.Customers, string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	return m
}

func TestFineTuneFaults(t *testing.T) {
	r := newRig(t, "purchase_prediction", nil)
	r.service.MaxBytes = 56 * 1000
	const model = "purchase_prediction"
	for _, c := range []struct {
		start *footfallv1.FineTuneStart
		code  codes.Code
		text  string
	}{
		{&footfallv1.FineTuneStart{}, codes.InvalidArgument, "model: is missing"},
		{&footfallv1.FineTuneStart{Model: "gpt"}, codes.NotFound, `no model "gpt" serves on this node`},
		{&footfallv1.FineTuneStart{Model: model, LearningRate: math.NaN()}, codes.InvalidArgument, "learning_rate: is NaN"},
		{&footfallv1.FineTuneStart{Model: model, LearningRate: 2}, codes.InvalidArgument, "learning_rate: is 2"},
		{&footfallv1.FineTuneStart{Model: model, Holdout: .99}, codes.InvalidArgument, "holdout: is 0.99"},
		{&footfallv1.FineTuneStart{Model: model, Epochs: 1 << 20}, codes.InvalidArgument, "epochs: is 1048576"},
	} {
		_, _, err := r.begun(t, t.Context(), c.start)
		require.Equal(t, c.code, status.Code(err), c.text)
		require.ErrorContains(t, err, c.text)
	}
	same := made(500, 7)
	for i := range same.GetLabels() {
		same.Labels[i] = true
	}
	strange := made(10, 7)
	strange.Features[13] = float32(math.Inf(1))
	for text, m := range map[string]*footfallv1.FineTuneRows{
		"labels: are missing":               {},
		"days: are 0 for 1 rows":            {Labels: []bool{true}, Features: make([]float32, 10), Customers: []string{"a"}},
		"features: has 9 values":            {Labels: []bool{true}, Features: make([]float32, 9), Customers: []string{"a"}, Days: []int32{1}},
		"row 1: visit_days_84: is +Inf":     strange,
		"rows: are 30: at least 300 are":    made(30, 7),
		"rows: are more than 1000, which":   made(1001, 7),
		"labels: are all the same in the r": same,
	} {
		stream, _, err := r.begun(t, t.Context(), &footfallv1.FineTuneStart{Model: model})
		require.NoError(t, err)
		send(t, stream, m)
		_, _, err = end(t, stream)
		require.Equal(t, codes.InvalidArgument, status.Code(err), text)
		require.ErrorContains(t, err, text)
	}

	// Rows before the start, a caller that says nothing, and one that goes.
	stream, err := r.FineTune(t.Context())
	require.NoError(t, err)
	send(t, stream, made(1, 1))
	_, err = stream.Recv()
	require.ErrorContains(t, err, "start: must be sent before rows")
	r.service.Patience = 10 * time.Millisecond
	stream, _, err = r.begun(t, t.Context(), &footfallv1.FineTuneStart{Model: model})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	r.service.Patience = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = r.begun(t, ctx, &footfallv1.FineTuneStart{Model: model})
	require.NoError(t, err)
	cancel()
	require.Eventually(t, func() bool {
		if !r.service.running.TryLock() {
			return false
		}
		r.service.running.Unlock()
		return true
	}, time.Minute, time.Millisecond, "the place is free again")
	require.NoDirExists(t, filepath.Join(r.dir, model, "2"))
}

func TestFineTuneOfOtherModels(t *testing.T) {
	for model, why := range map[string]string{
		"purchase_sequence":     "its SavedModel has no signatures train and save",
		"customer_segmentation": "it answers a segment",
	} {
		_, _, err := newRig(t, model, nil).begun(t, t.Context(), &footfallv1.FineTuneStart{Model: model})
		require.Equal(t, codes.FailedPrecondition, status.Code(err))
		require.ErrorContains(t, err, model+" 1 can't be trained on: "+why)
	}
}

// Where days leave too little, customers part the rows.
func TestSplit(t *testing.T) {
	c, err := inference.ReadContract(filepath.Join("..", "..", "models", "churn_risk", "1"))
	require.NoError(t, err)
	table := newTable(layout, c, 1<<20)
	for day := range int32(4) {
		require.NoError(t, table.add(made(400, 100+7*day)))
	}
	s, err := table.split(.25, 7)
	require.NoError(t, err)
	require.Equal(t, split{train: s.train, judge: s.judge, how: splitDays}, s)
	require.Len(t, s.train, 1200)
	require.Len(t, s.judge, 400)
	s, err = table.split(.25, 14)
	require.NoError(t, err)
	require.Equal(t, 400, s.leftOut)
	s, err = table.split(.3, horizonOf("churn_28d"))
	require.NoError(t, err)
	require.Equal(t, splitCustomers, s.how)
	require.Zero(t, s.leftOut)
	require.Len(t, table.customers, len(s.train)+len(s.judge))
	apart := map[uint64]bool{}
	for _, i := range s.judge {
		apart[table.customers[i]] = true
	}
	for _, i := range s.train {
		require.False(t, apart[table.customers[i]])
	}
	require.Equal(t, int32(28), horizonOf("churn_28d"))
	require.Zero(t, horizonOf("loyal"))
}
