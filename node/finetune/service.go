package finetune

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/inference"
	"footfall/messages/footfallv1"
)

// Origin is the version that is trained on, and where.
type Origin struct {
	Contract *inference.Contract
	// Dir is its folder on this machine.
	Dir string
	// Device is the one to train on: "CPU:0".
	Device string
}

// Service trains models on for callers. Its fields are not changed once it serves.
type Service struct {
	footfallv1.UnimplementedFineTuneServiceServer

	// Node is its name.
	Node   string
	Layout inference.Layout
	Runner inference.Runner
	// Origin finds the version of a model that serves; [*inference.NotServingError] where none does.
	Origin    func(ctx context.Context, model string) (Origin, error)
	Publisher Publisher
	// Waiting is how many rows wait for scores on this node.
	Waiting func() int
	Clock   inference.Clock
	Log     *slog.Logger
	Metrics *Metrics
	// MaxBytes bounds the rows that are held: 256 MiB unless set.
	MaxBytes int
	// Patience is how long the next rows may take: 1 min unless set.
	Patience time.Duration

	running sync.Mutex // held by the one that runs
}

// Metrics are the service's. Their labels are bounded by models and outcomes.
type Metrics struct{ runs *prometheus.CounterVec }

// The outcomes of a fine-tuning.
const (
	outcomePublished = "published"
	outcomeRefused   = "refused"
	outcomeFailed    = "failed"
)

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{runs: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "footfall_finetune_runs_total",
		Help: "Fine-tunings of models, by what became of them: published, refused (no better) or failed.",
	}, []string{"model", "outcome"})}
	return m, reg.Register(m.runs)
}

// defaultMaxBytes holds four million rows of ten features.
const defaultMaxBytes = 256 << 20

// FineTune implements the gRPC service.
func (s *Service) FineTune(stream footfallv1.FineTuneService_FineTuneServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return statusOf(field("start", "must be sent before rows"))
	}
	o, err := optionsOf(start)
	if err != nil {
		return statusOf(err)
	}
	result, err := s.tune(ctx, stream, start.GetModel(), o)
	if err != nil {
		return statusOf(err)
	}
	// The last that is done: who has the result may ask for the next at once.
	return stream.Send(&footfallv1.FineTuneProgress{Part: &footfallv1.FineTuneProgress_Result{Result: result}})
}

// tune is one fine-tuning, but for telling its result.
func (s *Service) tune(ctx context.Context, stream footfallv1.FineTuneService_FineTuneServer, model string, o options) (*footfallv1.FineTuneResult, error) {
	if !s.running.TryLock() {
		return nil, status.Error(codes.ResourceExhausted, "another fine-tuning runs on this node: try again when it is done")
	}
	defer s.running.Unlock()
	origin, err := s.Origin(ctx, model)
	if err != nil {
		return nil, err
	}
	outcome := outcomeFailed
	defer func() { s.Metrics.runs.WithLabelValues(origin.Contract.Name, outcome).Inc() }()
	j, err := s.open(ctx, origin, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := j.trainer.Close(); err != nil {
			s.Log.Warn("what was trained on is not closed", "model", origin.Contract.Name, "error", err)
		}
	}()
	j.progress = func(e *footfallv1.FineTuneEpoch) error {
		return stream.Send(&footfallv1.FineTuneProgress{Part: &footfallv1.FineTuneProgress_Epoch{Epoch: e}})
	}
	if err := stream.Send(&footfallv1.FineTuneProgress{Part: &footfallv1.FineTuneProgress_Ready{Ready: s.ready(j)}}); err != nil {
		return nil, err
	}
	if err := s.receive(ctx, stream, j.rows); err != nil {
		return nil, err
	}
	result, err := j.run(ctx)
	if err != nil {
		s.Log.Warn("fine-tuning failed", "model", origin.Contract.Name, "version", origin.Contract.VersionString(), "error", err)
		return nil, err
	}
	if outcome = outcomePublished; result.GetRefused() != "" {
		outcome = outcomeRefused
	}
	s.Log.Info("model was fine-tuned", "model", origin.Contract.Name, "parent", origin.Contract.VersionString(), "outcome", outcome,
		"version", result.GetVersion(), "rows", result.GetTrained(), "seconds", result.GetSeconds(),
		"log_loss_before", result.GetBefore().GetLogLoss(), "log_loss", result.GetAfter().GetLogLoss(), "refused", result.GetRefused())
	return result, nil
}

// open prepares a job, whose trainer the caller closes.
func (s *Service) open(ctx context.Context, origin Origin, o options) (*job, error) {
	c := origin.Contract
	if c.Outputs[0].Kind != inference.Probability {
		return nil, &inference.NotTrainableError{Model: c.Name, Version: c.VersionString(), Reason: "it answers a " + string(c.Outputs[0].Kind) + ", and rows tell whether something happened"}
	}
	runner, ok := s.Runner.(inference.TrainerRunner)
	if !ok {
		return nil, &inference.NotTrainableError{Model: c.Name, Version: c.VersionString(), Reason: s.Runner.Version() + " trains nothing"}
	}
	trainer, err := runner.Trainer(ctx, origin.Dir, c, origin.Device)
	if err != nil {
		return nil, err
	}
	most := s.MaxBytes
	if most == 0 {
		most = defaultMaxBytes
	}
	return &job{
		options: o, contract: c, dir: origin.Dir, device: origin.Device, runner: s.Runner, trainer: trainer,
		rows: newTable(s.Layout, c, most), publisher: s.Publisher, now: s.Clock.Now, yield: s.yield,
	}, nil
}

func (s *Service) ready(j *job) *footfallv1.FineTuneReady {
	r := &footfallv1.FineTuneReady{
		Model: j.contract.Name, Version: j.contract.VersionString(), Device: j.device, Label: j.contract.Outputs[0].Name,
		MaxRows: uint64(j.rows.most), Node: s.Node,
	}
	for _, in := range j.contract.Inputs {
		r.Inputs = append(r.Inputs, in.Name)
	}
	return r
}

// receive takes rows until the caller has no more, or takes too long for the next ones.
func (s *Service) receive(ctx context.Context, stream footfallv1.FineTuneService_FineTuneServer, into *table) error {
	type received struct {
		request *footfallv1.FineTuneRequest
		err     error
	}
	next := make(chan received)
	go func() { // it ends with the stream
		for {
			r, err := stream.Recv()
			select {
			case next <- received{r, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	patience := s.Patience
	if patience == 0 {
		patience = time.Minute
	}
	for {
		late := make(chan struct{})
		stop := s.Clock.AfterFunc(patience, func() { close(late) })
		select {
		case r := <-next:
			stop()
			switch {
			case errors.Is(r.err, io.EOF):
				return nil
			case r.err != nil:
				return r.err
			case r.request.GetRows() == nil:
				return field("rows", "must follow the start, and nothing else")
			}
			if err := into.add(r.request.GetRows()); err != nil {
				return err
			}
		case <-late:
			return status.Errorf(codes.DeadlineExceeded, "no rows came for %v", patience)
		case <-ctx.Done():
			stop()
			return context.Cause(ctx)
		}
	}
}

// How training makes room for serving: it rests as long as it ran, and on while rows wait.
const (
	restWhileRowsWait = time.Millisecond
	mostRests         = 20
)

// yield rests after a run.
func (s *Service) yield(ctx context.Context, took time.Duration) error {
	for range mostRests {
		if !s.rest(ctx, took) {
			return context.Cause(ctx)
		}
		if s.Waiting() == 0 {
			return nil
		}
		took = restWhileRowsWait
	}
	return nil
}

func (s *Service) rest(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	stop := s.Clock.AfterFunc(d, func() { close(over) })
	defer stop()
	select {
	case <-over:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// statusOf is what a caller hears of an error.
func statusOf(err error) error {
	var (
		wrong *FieldError
		none  *inference.NotServingError
		not   *inference.NotTrainableError
	)
	switch {
	case errors.As(err, &wrong):
		s := status.New(codes.InvalidArgument, err.Error())
		if with, e := s.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: wrong.Field, Description: wrong.Reason}}}); e == nil {
			s = with
		}
		return s.Err()
	case errors.As(err, &none):
		return status.Error(codes.NotFound, fmt.Sprintf("model: no model %q serves on this node", none.Model))
	case errors.As(err, &not):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller is gone, or the node stops")
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Internal, err.Error())
}
