package access

import (
	"net/http"
	"strings"
)

// methods are the gRPC calls, by their full name, and the role that each asks for.
var methods = map[string]Role{
	"/footfall.v1.IngestService/Publish": Ingest,

	"/footfall.v1.CustomerService/GetCustomer":       Read,
	"/footfall.v1.CustomerService/BatchGetCustomers": Read,
	"/footfall.v1.CustomerService/GetHistory":        Read,

	"/footfall.v1.AdminService/GetCluster":        Read,
	"/footfall.v1.AdminService/ListShards":        Read,
	"/footfall.v1.AdminService/ListHotCustomers":  Read,
	"/footfall.v1.AdminService/ListModels":        Read,
	"/footfall.v1.AdminService/CanaryModel":       Operate,
	"/footfall.v1.AdminService/ShadowModel":       Operate,
	"/footfall.v1.AdminService/PromoteModel":      Operate,
	"/footfall.v1.AdminService/RollbackModel":     Operate,
	"/footfall.v1.AdminService/WaitIdle":          Read,
	"/footfall.v1.AdminService/ListDeadLetters":   Read,
	"/footfall.v1.AdminService/GetDeadLetter":     Read,
	"/footfall.v1.AdminService/Verify":            Operate, // it folds the whole log again
	"/footfall.v1.AdminService/DrainMember":       Operate,
	"/footfall.v1.AdminService/Tick":              Operate,
	"/footfall.v1.AdminService/SetClock":          Operate,
	"/footfall.v1.AdminService/ReplayDeadLetters": Operate,
	"/footfall.v1.AdminService/FixDeadLetter":     Operate,
	"/footfall.v1.AdminService/DropDeadLetters":   Operate,

	"/footfall.v1.FineTuneService/FineTune": Operate,

	"/footfall.v1.NodeService/NoteRejected": Node,
	"/footfall.v1.NodeService/GetLastTick":  Node,
	"/footfall.v1.NodeService/PrepareShard": Node,

	"/inference.GRPCInferenceService/ServerLive":     Read,
	"/inference.GRPCInferenceService/ServerReady":    Read,
	"/inference.GRPCInferenceService/ServerMetadata": Read,
	"/inference.GRPCInferenceService/ModelReady":     Read,
	"/inference.GRPCInferenceService/ModelMetadata":  Read,
	"/inference.GRPCInferenceService/ModelInfer":     Read,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      Read,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Read,

	"/grpc.health.v1.Health/Check": Open,
	"/grpc.health.v1.Health/List":  Open,
	"/grpc.health.v1.Health/Watch": Open,
}

// routes are the HTTP calls. HEAD is GET; {x} stands for a part of the path, {x...} for all that
// is left of it.
var routes = []route{
	{http.MethodGet, "/healthz", Open},
	{http.MethodGet, "/readyz", Open},
	// The page has no data: its script asks for them, with the token that it is given.
	{http.MethodGet, "/", Open},
	{http.MethodGet, "/metrics", Read},
	{http.MethodGet, "/openapi.json", Read},

	{http.MethodPost, "/v1/events", Ingest},

	{http.MethodPost, "/v1/customers:batchGet", Read},
	{http.MethodGet, "/v1/customers:hot", Read},
	{http.MethodGet, "/v1/customers/{customer_id}", Read},
	{http.MethodGet, "/v1/customers/{customer_id}/history", Read},
	{http.MethodGet, "/v1/cluster", Read},
	{http.MethodGet, "/v1/shards", Read},
	{http.MethodGet, "/v1/models", Read},
	{http.MethodPost, "/v1/models/{name}:canary", Operate},
	{http.MethodPost, "/v1/models/{name}:shadow", Operate},
	{http.MethodPost, "/v1/models/{name}:promote", Operate},
	{http.MethodPost, "/v1/models/{name}:rollback", Operate},
	{http.MethodGet, "/v1/drift", Read},
	{http.MethodGet, "/v1/audiences", Read},
	{http.MethodGet, "/v1/audiences/{name}", Read},
	{http.MethodGet, "/v1/insights", Read},
	{http.MethodGet, "/v1/deadletters", Read},
	{http.MethodGet, "/v1/deadletters/{id}", Read},
	{http.MethodPost, "/v1/deadletters/{id}:fix", Operate},
	{http.MethodPost, "/v1/deadletters:replay", Operate},
	{http.MethodPost, "/v1/deadletters:drop", Operate},
	{http.MethodPost, "/v1/cluster/members/{member}:drain", Operate},
	{http.MethodPost, "/v1/clock:tick", Operate},
	{http.MethodPost, "/v1/clock:set", Operate},

	{http.MethodGet, "/v2", Read},
	{http.MethodGet, "/v2/{rest...}", Read},
	{http.MethodPost, "/v2/{rest...}", Read},
}

type route struct {
	method, pattern string
	role            Role
}

// RoleOfMethod is the role that a gRPC call asks for; false where the table has none.
func RoleOfMethod(fullName string) (Role, bool) {
	r, ok := methods[fullName]
	return r, ok
}

// RoleOfRoute is the role that an HTTP call asks for; false where the table has none. The path is
// taken as it is, with nothing tidied up. Where several rows are of it, the first counts.
func RoleOfRoute(method, path string) (Role, bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, r := range routes {
		if r.method == method && matches(r.pattern, path) {
			return r.role, true
		}
	}
	return Open, false
}

// MethodsOf are the methods that an HTTP path takes; none where the table does not have it.
func MethodsOf(path string) []string {
	var out []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		if _, ok := RoleOfRoute(method, path); ok {
			out = append(out, method)
		}
	}
	return out
}

// matches holds a path against a pattern, part by part.
func matches(pattern, path string) bool {
	for {
		want, restOfPattern, moreWanted := strings.Cut(pattern, "/")
		have, restOfPath, more := strings.Cut(path, "/")
		if strings.HasSuffix(want, "...}") {
			return true
		}
		switch open, end := strings.IndexByte(want, '{'), strings.IndexByte(want, '}'); {
		case open < 0 && want != have:
			return false
		case open >= 0:
			middle, ok := strings.CutSuffix(have, want[end+1:])
			if !ok || !strings.HasPrefix(middle, want[:open]) || len(middle) <= open {
				return false
			}
		}
		if moreWanted != more {
			return false
		}
		if !more {
			return true
		}
		pattern, path = restOfPattern, restOfPath
	}
}
