package finetune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"footfall/inference"
	"footfall/messages/footfallv1"
	"footfall/node/quality"
)

// Publisher adds the next version of a model from a directory, whole or not at all.
type Publisher interface {
	Publish(ctx context.Context, name, dir string) (version string, err error)
}

// job is one fine-tuning.
type job struct {
	options
	contract *inference.Contract
	// dir is the parent version's.
	dir       string
	device    string
	runner    inference.Runner
	trainer   inference.Trainer
	rows      *table
	publisher Publisher
	now       func() time.Time
	// yield is called after each run of the library, with how long that took.
	yield func(ctx context.Context, took time.Duration) error
	// progress is told of each epoch.
	progress func(*footfallv1.FineTuneEpoch) error

	batch  inference.Batch
	labels []float32
}

// How much worse a result may be in what it is not chosen by.
const (
	lessAUC = .005
	moreECE = .02
)

// run trains, judges, and publishes what is better.
func (j *job) run(ctx context.Context) (*footfallv1.FineTuneResult, error) {
	began := j.now()
	s, err := j.rows.split(j.holdout, horizonOf(j.contract.Outputs[0].Name))
	if err != nil {
		return nil, err
	}
	before, _, err := j.measure(ctx, j.trainer, s.judge)
	if err != nil {
		return nil, err
	}
	tell := func(epoch int, loss float64, m quality.Measures) error {
		return j.progress(&footfallv1.FineTuneEpoch{Epoch: uint32(epoch), Epochs: uint32(j.epochs), Loss: loss, Holdout: measures(m)})
	}
	if err := tell(0, 0, before); err != nil {
		return nil, err
	}
	after, answers := before, []float32(nil)
	result := &footfallv1.FineTuneResult{
		Before: measures(before), Trained: uint64(len(s.train)), LeftOut: uint64(s.leftOut), Split: s.how, Digest: j.rows.digest(s.train),
	}
	order := append([]int32(nil), s.train...)
	for epoch := 1; epoch <= j.epochs; epoch++ {
		loss, err := j.epoch(ctx, order, uint64(epoch))
		if err == nil {
			after, answers, err = j.measure(ctx, j.trainer, s.judge)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			// What steps made of the model is of no use: nobody is told that the node failed.
			result.Refused = "training went astray, try a smaller learning rate: " + err.Error()
			result.Seconds = j.now().Sub(began).Seconds()
			return result, nil
		}
		if err := tell(epoch, loss, after); err != nil {
			return nil, err
		}
	}
	result.After = measures(after)
	if result.Refused = worse(before, after); result.Refused == "" {
		result.Version, err = j.publish(ctx, s, before, after, answers)
	}
	result.Seconds = j.now().Sub(began).Seconds()
	return result, err
}

// worse says why a result is no better than what it began with; empty where it is.
func worse(before, after quality.Measures) string {
	switch {
	case !(after.LogLoss < before.LogLoss):
		return fmt.Sprintf("its log-loss on the rows that judge is %.5f, and was %.5f", after.LogLoss, before.LogLoss)
	case !(after.AUC >= before.AUC-lessAUC):
		return fmt.Sprintf("its AUC on the rows that judge fell from %.4f to %.4f, by more than %v", before.AUC, after.AUC, lessAUC)
	case !(after.ECE <= before.ECE+moreECE):
		return fmt.Sprintf("its calibration error on the rows that judge rose from %.4f to %.4f, by more than %v", before.ECE, after.ECE, moreECE)
	}
	return ""
}

// epoch goes through the rows once, in an order of its own, and returns the mean loss of its steps.
func (j *job) epoch(ctx context.Context, order []int32, number uint64) (float64, error) {
	rng := rand.New(rand.NewPCG(j.seed, number))
	rng.Shuffle(len(order), func(a, b int) { order[a], order[b] = order[b], order[a] })
	var sum float64
	for from := 0; from < len(order); from += j.options.batch {
		part := order[from:min(from+j.options.batch, len(order))]
		j.labels = j.rows.gather(part, &j.batch, j.labels)
		began := j.now()
		loss, err := j.trainer.Step(j.batch, j.labels, float32(j.rate))
		if err != nil {
			return 0, err
		}
		sum += float64(loss) * float64(len(part))
		if err := j.yield(ctx, j.now().Sub(began)); err != nil {
			return 0, err
		}
	}
	return sum / float64(len(order)), nil
}

// judged is how many rows are run at once to be measured.
const judged = 512

// measure runs rows and says how well their outcomes were foretold; answers are what was said.
func (j *job) measure(ctx context.Context, s inference.Session, rows []int32) (m quality.Measures, answers []float32, err error) {
	answers = make([]float32, len(rows))
	for from := 0; from < len(rows); from += judged {
		to := min(from+judged, len(rows))
		j.labels = j.rows.gather(rows[from:to], &j.batch, j.labels)
		began := j.now()
		if err := s.Run(j.batch, answers[from:to]); err != nil {
			return m, nil, err
		}
		if err := j.yield(ctx, j.now().Sub(began)); err != nil {
			return m, nil, err
		}
	}
	foretold, happened := make([]float64, len(rows)), make([]bool, len(rows))
	for i, row := range rows {
		foretold[i], happened[i] = float64(answers[i]), j.rows.labels[row] == 1
	}
	if m, err = quality.Measure(foretold, happened); err == nil && (math.IsNaN(m.AUC) || math.IsNaN(m.LogLoss)) {
		err = errors.New("it can't be measured")
	}
	return m, answers, err
}

func measures(m quality.Measures) *footfallv1.FineTuneMeasures {
	return &footfallv1.FineTuneMeasures{Rows: uint64(m.Rows), BaseRate: m.Base, Auc: m.AUC, LogLoss: m.LogLoss, Ece: m.ECE, AveragePrecision: m.AP}
}

// publish writes the version aside, loads it as a server does, has it answer the rows that judged,
// and only then publishes it.
func (j *job) publish(ctx context.Context, s split, before, after quality.Measures, answers []float32) (string, error) {
	scratch, err := os.MkdirTemp("", "footfall-finetune-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // what stays behind is small, and in the temporary folder
	dir := filepath.Join(scratch, j.contract.Name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := j.trainer.Save(dir); err != nil {
		return "", err
	}
	text, err := j.document(s, before, after)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "model.yaml"), text, 0o644); err != nil { //nolint:gosec // others serve it
		return "", err
	}
	c, err := inference.ReadContract(dir)
	if err != nil {
		return "", fmt.Errorf("the new contract can't be read: %w", err)
	}
	session, err := j.runner.Load(ctx, dir, c, j.device)
	if err != nil {
		return "", fmt.Errorf("the new version can't be loaded: %w", err)
	}
	_, again, err := j.measure(ctx, session, s.judge)
	if err := errors.Join(err, session.Close()); err != nil {
		return "", fmt.Errorf("the new version does not run: %w", err)
	}
	for i, v := range again {
		if math.Abs(float64(v-answers[i])) > 1e-6 {
			return "", fmt.Errorf("the new version answers %v where what was trained says %v: it was not published", v, answers[i])
		}
	}
	return j.publisher.Publish(ctx, j.contract.Name, dir)
}
