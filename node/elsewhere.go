package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"footfall/actors"
	"footfall/cluster"
	"footfall/inference"
	"footfall/inference/modelstore"
	"footfall/inference/oip"
	"footfall/messages/footfallv1"
	"footfall/node/api"
	"footfall/node/config"
)

// elsewhere is the way to devices that are not this node's: those of other members, and servers
// that the configuration names. Rows go there by the Open Inference Protocol.
//
// Members come and go, and so do their devices; what follows them is [oip.Remotes].
type elsewhere struct {
	// node is the name of this one.
	node    string
	remotes *oip.Remotes
	// member is the connection to a member's address; nil on a node on its own.
	member func(address string) (grpc.ClientConnInterface, error)
	// contracts are those that models.url has, nil where it can't be read here.
	contracts func() *inference.Registry

	mu sync.Mutex // guards what follows
	// outside are the connections to servers that are no members, by address.
	outside map[string]*grpc.ClientConn
	// listed is what members have said of their models, by name.
	listed map[string][]*footfallv1.Model
	// unknown, where it is set, is told of a version that a member serves and contracts have not.
	unknown func(context.Context)
	// shown, where it is set, is told which versions' scores customers get of the members together. It must not block.
	shown func([]actors.ModelScores)
	pool  *inference.Pool
	// targets are those that take requests, until there is a pool too.
	targets []inference.Target
}

func newElsewhere(cfg *config.Config, contracts func() *inference.Registry, m *inference.Metrics, logger *slog.Logger) (*elsewhere, error) {
	e := &elsewhere{node: cfg.Name, contracts: contracts, outside: map[string]*grpc.ClientConn{}, listed: map[string][]*footfallv1.Model{}}
	for _, address := range cfg.InferenceServers {
		conn, err := dialOutside(address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("inference.servers: %s: %w", address, err), e.Close())
		}
		e.outside[address] = conn
	}
	var err error
	e.remotes, err = oip.NewRemotes(oip.RemotesConfig{
		Layout: layout, Dial: e.dial, Changed: e.changed, Timeout: cfg.InferenceTimeout, Metrics: m, Log: logger,
	})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.set(nil)
	return e, nil
}

// dialOutside connects to a server that is no member, unencrypted.
func dialOutside(address string) (*grpc.ClientConn, error) {
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 50*time.Millisecond, 5*time.Second
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

func (e *elsewhere) dial(address string) (grpc.ClientConnInterface, error) {
	e.mu.Lock()
	conn := e.outside[address]
	e.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	if e.member == nil {
		return nil, errors.New("it is no member")
	}
	return e.member(address)
}

// feeds has a pool use the devices.
func (e *elsewhere) feeds(p *inference.Pool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pool = p
	p.SetRemote(e.targets)
}

// changed takes the devices that are in service.
func (e *elsewhere) changed(targets []inference.Target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.targets = targets
	if e.pool != nil {
		e.pool.SetRemote(targets)
	}
}

// set names the members; those with devices are sent rows. It does not block.
func (e *elsewhere) set(members []cluster.Member) {
	var places []oip.Place
	e.mu.Lock()
	for _, address := range slices.Sorted(maps.Keys(e.outside)) {
		places = append(places, oip.Place{Name: address, Address: address, Models: oip.ReadyModels(e.names)})
	}
	for _, m := range members {
		hasDevices := len(m.Devices) > 0 || m.DevicesLeftOut > 0
		if m.State == cluster.MemberActive && m.Roles&cluster.RoleInference != 0 && hasDevices && e.outside[m.GRPC] == nil {
			places = append(places, oip.Place{Name: m.Name, Address: m.GRPC, Models: e.ask(m.Name)})
		}
	}
	maps.DeleteFunc(e.listed, func(name string, _ []*footfallv1.Model) bool {
		return !slices.ContainsFunc(places, func(p oip.Place) bool { return p.Name == name })
	})
	e.mu.Unlock()
	e.remotes.Set(places)
}

// names are the models that a server which is no member is asked for.
func (e *elsewhere) names() (names []string) {
	r := e.contracts()
	if r == nil {
		return nil
	}
	for _, m := range r.Models() {
		if m.Err == nil {
			names = append(names, m.Name)
		}
	}
	return names
}

// ask returns how a member is asked for what it serves.
func (e *elsewhere) ask(member string) func(context.Context, grpc.ClientConnInterface) ([]oip.Model, error) {
	return func(ctx context.Context, conn grpc.ClientConnInterface) (models []oip.Model, err error) {
		answer, err := footfallv1.NewAdminServiceClient(conn).ListModels(api.PassOn(ctx, e.node), &footfallv1.ListModelsRequest{})
		if err != nil {
			return nil, err
		}
		for _, m := range answer.GetModels() {
			if !slices.ContainsFunc(m.GetVersions(), serves) {
				continue
			}
			model := oip.Model{Name: m.GetName()}
			for _, v := range m.GetVersions() {
				if r := e.contracts(); e.unknown != nil && r != nil && (serves(v) || v.GetState() == "canary") && r.Contract(m.GetName(), v.GetVersion()) == nil {
					e.unknown(ctx)
				}
				if v.GetState() == "canary" {
					model.Canary, model.Share = v.GetVersion(), v.GetTraffic()
				}
			}
			models = append(models, model)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.listed[member] = answer.GetModels()
		if e.shown != nil {
			e.shown(e.versions())
		}
		return models, nil
	}
}

// versions are those that members give customers the scores of. It is called with the lock. While members follow a decision one
// after the other, both what served and what is to serve is among them.
func (e *elsewhere) versions() (all []actors.ModelScores) {
	for _, member := range slices.Sorted(maps.Keys(e.listed)) {
		for _, m := range e.listed[member] {
			for _, v := range m.GetVersions() {
				named := func(one actors.ModelScores) bool { return one.Model == m.GetName() && one.Version == v.GetVersion() }
				if (serves(v) || v.GetState() == "canary") && !slices.ContainsFunc(all, named) {
					all = append(all, actors.ModelScores{Model: m.GetName(), Version: v.GetVersion()})
				}
			}
		}
	}
	return all
}

func serves(v *footfallv1.ModelVersion) bool { return v.GetState() == "serving" }

// Close ends what is under way. The pool must not be used any more, or not take rows.
func (e *elsewhere) Close() error {
	if e.remotes != nil {
		e.remotes.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, c := range e.outside {
		errs = append(errs, c.Close())
	}
	clear(e.outside)
	return errors.Join(errs...)
}

// outsourced is the scoring of a node that runs no models: others do.
type outsourced struct {
	*elsewhere
	pool  *inference.Pool
	ask   inference.Queries
	store *modelstore.Store
	// lists has one look at what is new in the store at a time.
	lists sync.Mutex
}

// openOutsourced returns nil where nobody could ever score for the node.
func openOutsourced(cfg *config.Config, logger *slog.Logger, reg prometheus.Registerer) (_ *outsourced, err error) {
	if cfg.Roles.Has(config.RoleInference) || !cfg.Clustered() && len(cfg.InferenceServers) == 0 {
		return nil, nil
	}
	o := &outsourced{}
	location := cfg.ModelsURL
	if location == "" {
		location = "file:" + cfg.ModelsDir
	}
	if o.store, err = modelstore.Open(context.Background(), location, modelstore.Options{Layout: layout, Cache: cfg.ModelsCache}); err != nil {
		return nil, err
	}
	if _, _, err := o.store.Refresh(context.Background()); err != nil {
		logger.Info("models.url can't be read here: segments stay without a name, and servers that are no members are asked for nothing", "error", err)
	}
	m, err := inference.NewMetrics(reg)
	if err != nil {
		return nil, errors.Join(err, o.store.Close())
	}
	o.pool, err = inference.StartPool(context.Background(), inference.PoolConfig{
		NoDevices: true, Config: inference.Config{Metrics: m, Log: logger},
	})
	if err != nil {
		return nil, errors.Join(err, o.store.Close())
	}
	rows := 16 * max(cfg.InferenceRows, actors.DefaultScoreRows)
	o.ask = inference.Queries{Offer: o.pool.Score, Limit: rows / 2, MaxRows: rows / 4}
	if o.elsewhere, err = newElsewhere(cfg, o.store.Registry, m, logger); err != nil {
		return nil, errors.Join(err, o.pool.Close(), o.store.Close())
	}
	o.unknown = func(ctx context.Context) {
		o.lists.Lock()
		defer o.lists.Unlock()
		if _, _, err := o.store.Refresh(ctx); err != nil {
			logger.Debug("models.url can't be read", "error", err)
		}
	}
	o.feeds(o.pool)
	return o, nil
}

// Close ends what is under way; no shard may offer rows any more.
func (o *outsourced) Close() error {
	return errors.Join(o.elsewhere.Close(), o.pool.Close(), o.store.Close())
}

// Score implements actors.Scorer.
func (o *outsourced) Score(r *actors.ScoreRequest) bool { return offer(o.pool, r) }

// reasons tells what the node has to do without.
func (o *outsourced) notes() (notes []string) {
	up := false
	for _, s := range o.remotes.Status() {
		switch {
		case s.State == inference.DeviceServing:
			up = true
		case s.Err != nil:
			notes = append(notes, fmt.Sprintf("%s takes no rows: %v", s.Name, s.Err))
		}
	}
	if !up {
		notes = append(notes, "no member with devices is there: customers are not scored until one is")
	}
	return notes
}

// List implements api.Models: what a member has said that scores for this node.
func (o *outsourced) List() []*footfallv1.Model {
	for _, s := range o.remotes.Status() {
		o.mu.Lock()
		listed := o.listed[s.Name]
		o.mu.Unlock()
		if s.State == inference.DeviceServing && listed != nil {
			return listed
		}
	}
	return nil
}

// Segment implements api.Models.
func (o *outsourced) Segment(model, version string, value float32) string {
	return segmentOf(o.store.Registry(), model, version, value)
}

// Devices implements api.Models.
func (*outsourced) Devices() []string { return nil }

// Queries implements api.Models.
func (o *outsourced) Queries() api.Queries { return outsourcedQueries{o} }

// outsourcedQueries passes on what callers ask the models.
type outsourcedQueries struct{ *outsourced }

// Ready implements oip.Backend.
func (q outsourcedQueries) Ready() bool {
	return slices.ContainsFunc(q.remotes.Status(), func(s inference.DeviceStatus) bool { return s.State == inference.DeviceServing })
}

// Serving implements oip.Backend: those that serve elsewhere and whose contract is known here.
func (q outsourcedQueries) Serving() (all []*inference.Contract) {
	r := q.store.Registry()
	if r == nil {
		return nil
	}
	for _, m := range q.List() {
		for _, v := range m.GetVersions() {
			if c := r.Contract(m.GetName(), v.GetVersion()); c != nil && serves(v) {
				all = append(all, c)
			}
		}
	}
	return all
}

// MaxRows implements oip.Backend.
func (q outsourcedQueries) MaxRows() int { return q.ask.MaxRows }

// Score implements oip.Backend.
func (q outsourcedQueries) Score(ctx context.Context, r inference.Request) (inference.Scores, error) {
	return q.ask.Score(ctx, r)
}

// Explain implements api.Queries.
func (q outsourcedQueries) Explain(ctx context.Context, model string, features, sequence []float32) (*inference.Explanation, error) {
	return explain(ctx, q, model, features, sequence)
}
