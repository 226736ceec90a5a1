package api

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"footfall/cluster"
	"footfall/messages/footfallv1"
)

// ListModels implements the gRPC service.
func (s *Admin) ListModels(ctx context.Context, r *footfallv1.ListModelsRequest) (*footfallv1.ListModelsResponse, error) {
	mine := &footfallv1.ListModelsResponse{}
	if _, own := s.models.(Rollouts); s.models != nil && (own || s.nodes == nil) { // else they are those of others, who are asked
		mine.Models = s.models.List()
	}
	switch {
	case s.nodes == nil:
		return &footfallv1.ListModelsResponse{Models: modelsTogether([]modelsAt{{s.id.Name, mine.GetModels()}}, false)}, nil
	case forwarded(ctx):
		return mine, nil
	}
	answers := others(ctx, s.nodes, memberPatience, func(ctx context.Context, conn grpc.ClientConnInterface) (*footfallv1.ListModelsResponse, error) {
		return footfallv1.NewAdminServiceClient(conn).ListModels(ctx, r)
	})
	answers[s.id.Name] = mine
	out := &footfallv1.ListModelsResponse{}
	var at []modelsAt
	for _, m := range s.nodes.Members() {
		switch a := answers[m.Name]; {
		case m.Roles&cluster.RoleInference == 0: // what it tells of is not its own
		case a != nil:
			at = append(at, modelsAt{m.Name, a.GetModels()})
		default:
			out.Missing = append(out.Missing, m.Name)
		}
	}
	slices.Sort(out.Missing)
	out.Models = modelsTogether(at, true)
	return out, nil
}

// modelsAt are the models of one node as it tells of them.
type modelsAt struct {
	node   string
	models []*footfallv1.Model
}

// modelsTogether joins what nodes say of their models. While they follow a decision one after the other, it counts what those
// say that know the newest one. named puts the nodes before their devices.
func modelsTogether(answers []modelsAt, named bool) []*footfallv1.Model {
	slices.SortFunc(answers, func(a, b modelsAt) int { return cmp.Compare(a.node, b.node) })
	byModel := map[string][]modelAt{}
	for _, a := range answers {
		for _, m := range a.models {
			byModel[m.GetName()] = append(byModel[m.GetName()], modelAt{a.node, m})
		}
	}
	out := make([]*footfallv1.Model, 0, len(byModel))
	for _, all := range byModel {
		newest := slices.MaxFunc(all, func(a, b modelAt) int { return cmp.Compare(a.model.GetGeneration(), b.model.GetGeneration()) }).model
		one := proto.CloneOf(newest)
		one.Versions = versionsTogether(all, newest, named)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b *footfallv1.Model) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// modelAt is a model as one node tells of it.
type modelAt struct {
	node  string
	model *footfallv1.Model
}

// versionAt is a version as one node tells of it.
type versionAt struct {
	node    string
	newest  bool // it knows the newest decision
	version *footfallv1.ModelVersion
}

// versionsTogether joins the versions of a model, in the order of who knows the newest decision. Those that only others have follow.
func versionsTogether(all []modelAt, newest *footfallv1.Model, named bool) (out []*footfallv1.ModelVersion) {
	byVersion := map[string][]versionAt{}
	var order []string
	for _, m := range slices.Concat([]modelAt{{model: newest}}, all) {
		for _, v := range m.model.GetVersions() {
			name := v.GetVersion()
			if !slices.Contains(order, name) {
				order = append(order, name)
			}
			if m.node != "" {
				byVersion[name] = append(byVersion[name], versionAt{m.node, m.model.GetGeneration() == newest.GetGeneration(), v})
			}
		}
	}
	for _, name := range order {
		out = append(out, versionTogether(byVersion[name], named))
	}
	return out
}

// versionStates are those of a version, from that which counts most on: what is decided is served where any node serves it.
var versionStates = []string{"serving", "canary", "shadow", "loading", "refused", "failed", "idle"}

func stateRank(v *footfallv1.ModelVersion) int {
	if i := slices.Index(versionStates, v.GetState()); i >= 0 {
		return i
	}
	return len(versionStates) // of a newer node
}

// versionTogether joins what nodes say of a version; there is at least one.
func versionTogether(all []versionAt, named bool) *footfallv1.ModelVersion {
	best := slices.MinFunc(all, func(a, b versionAt) int {
		if a.newest != b.newest {
			if a.newest {
				return -1
			}
			return 1
		}
		return cmp.Compare(stateRank(a.version), stateRank(b.version))
	}).version
	out := proto.CloneOf(best) // with what only newer nodes know
	out.Rows, out.Places = 0, nil
	var (
		devices []string
		trials  []*footfallv1.ModelTrial
	)
	for _, v := range all {
		p := &footfallv1.ModelPlace{Node: v.node, State: v.version.GetState(), Rows: v.version.GetRows(), Error: v.version.GetError()}
		if v.version.GetDevice() != "" {
			p.Devices = strings.Split(v.version.GetDevice(), ",")
		}
		for _, d := range p.GetDevices() {
			if named {
				d = v.node + "/" + d
			}
			devices = append(devices, d)
		}
		out.Rows += p.GetRows()
		if p.GetState() != "idle" {
			out.Places = append(out.Places, p)
		}
		if t := v.version.GetTrial(); t != nil && v.newest {
			trials = append(trials, t)
		}
		if out.GetDescription() == "" && len(out.GetEvaluation()) == 0 { // the best does not know its contract yet
			out.Description, out.Evaluation = v.version.GetDescription(), v.version.GetEvaluation()
		}
	}
	out.Device, out.Error, out.Trial = strings.Join(devices, ","), errorsTogether(all), trialsTogether(trials)
	return out
}

// errorsTogether is why a version does not serve: at all nodes, or else at each that says so.
func errorsTogether(all []versionAt) string {
	first := all[0].version.GetError()
	var each []string
	same := true
	for _, v := range all {
		if e := v.version.GetError(); e != "" {
			each = append(each, v.node+": "+e)
		}
		same = same && v.version.GetError() == first
	}
	if same {
		return first
	}
	return strings.Join(each, "; ")
}

// trialsTogether joins what nodes found of a version beside the champion; nil for nothing.
func trialsTogether(all []*footfallv1.ModelTrial) *footfallv1.ModelTrial {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	out := &footfallv1.ModelTrial{Since: all[0].GetSince()}
	for _, t := range all {
		out.Rows += t.GetRows()
		out.Errors += t.GetErrors()
		out.Shift = max(out.GetShift(), t.GetShift())
	}
	if out.GetRows() == 0 {
		return out
	}
	for _, t := range all {
		share := float64(t.GetRows()) / float64(out.GetRows())
		out.Difference += share * t.GetDifference()
		out.AbsoluteDifference += share * t.GetAbsoluteDifference()
		out.Seconds += share * t.GetSeconds()
		out.ChampionSeconds += share * t.GetChampionSeconds()
	}
	return out
}
