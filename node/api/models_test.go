package api

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"footfall/cluster"
	"footfall/messages/footfallv1"
)

// modelOf reads a model from JSON.
func modelOf(t *testing.T, text string) *footfallv1.Model {
	t.Helper()
	m := new(footfallv1.Model)
	require.NoError(t, protojson.Unmarshal([]byte(text), m))
	return m
}

// What nodes say of a model, by node, and what that is together.
func TestModelsTogether(t *testing.T) {
	for name, c := range map[string]struct {
		nodes map[string]string
		want  string
	}{
		"rows add up, and who has it is named": {
			map[string]string{
				"b": `{"name":"m","generation":1,"versions":[{"version":"1","state":"serving","traffic":1,"device":"CPU:0","rows":5,"description":"d"}]}`,
				"a": `{"name":"m","generation":1,"versions":[{"version":"1","state":"serving","traffic":1,"device":"GPU:0,GPU:1","rows":7,"description":"d"}]}`,
			},
			`{"name":"m","generation":1,"versions":[{"version":"1","state":"serving","traffic":1,"device":"a/GPU:0,a/GPU:1,b/CPU:0","rows":12,"description":"d","places":[
				{"node":"a","state":"serving","devices":["GPU:0","GPU:1"],"rows":7},{"node":"b","state":"serving","devices":["CPU:0"],"rows":5}]}]}`,
		},
		"who knows the newest decision counts": {
			map[string]string{
				"a": `{"name":"m","generation":3,"events":[{"action":"promote"}],"versions":[{"version":"2","state":"serving","traffic":1},{"version":"1","state":"idle","rows":9}]}`,
				"b": `{"name":"m","generation":2,"events":[{"action":"canary"}],"versions":[{"version":"2","state":"canary","traffic":0.1,"rows":1,"trial":{"rows":1}},
					{"version":"1","state":"serving","traffic":0.9,"rows":9}]}`,
			},
			`{"name":"m","generation":3,"events":[{"action":"promote"}],"versions":[
				{"version":"2","state":"serving","traffic":1,"rows":1,"places":[{"node":"a","state":"serving"},{"node":"b","state":"canary","rows":1}]},
				{"version":"1","state":"idle","rows":18,"places":[{"node":"b","state":"serving","rows":9}]}]}`,
		},
		"one that fails somewhere serves, and says so": {
			map[string]string{
				"a": `{"name":"m","versions":[{"version":"1","state":"failed","error":"bad magic number"}]}`,
				"b": `{"name":"m","versions":[{"version":"1","state":"serving","traffic":1,"device":"CPU:0"}]}`,
			},
			`{"name":"m","versions":[{"version":"1","state":"serving","traffic":1,"device":"b/CPU:0","error":"a: bad magic number","places":[
				{"node":"a","state":"failed","error":"bad magic number"},{"node":"b","state":"serving","devices":["CPU:0"]}]}]}`,
		},
		"an error of all is told once, and a failure before what is idle": {
			map[string]string{
				"a": `{"name":"m","versions":[{"version":"2","state":"failed","error":"no"},{"version":"1","state":"idle"}]}`,
				"b": `{"name":"m","versions":[{"version":"2","state":"failed","error":"no"},{"version":"1","state":"failed","error":"out of memory"}]}`,
			},
			`{"name":"m","versions":[{"version":"2","state":"failed","error":"no","places":[{"node":"a","state":"failed","error":"no"},{"node":"b","state":"failed","error":"no"}]},
				{"version":"1","state":"failed","error":"b: out of memory","places":[{"node":"b","state":"failed","error":"out of memory"}]}]}`,
		},
		"a version that only one has seen yet": {
			map[string]string{
				"a": `{"name":"m","versions":[{"version":"1","state":"serving","traffic":1}]}`,
				"b": `{"name":"m","versions":[{"version":"2","state":"idle"},{"version":"1","state":"serving","traffic":1}]}`,
			},
			`{"name":"m","versions":[{"version":"1","state":"serving","traffic":1,"places":[{"node":"a","state":"serving"},{"node":"b","state":"serving"}]},{"version":"2","state":"idle"}]}`,
		},
		"trials are weighed by rows": {
			map[string]string{
				"a": `{"name":"m","versions":[{"version":"2","state":"shadow","trial":{"rows":30,"errors":1,"shift":0.5,"difference":-0.5,"absoluteDifference":1,"seconds":2,"championSeconds":1}}]}`,
				"b": `{"name":"m","versions":[{"version":"2","state":"shadow","trial":{"rows":10,"errors":2,"shift":0.25,"difference":0.5,"absoluteDifference":1,"seconds":4,"championSeconds":1}}]}`,
				"c": `{"name":"m","versions":[{"version":"2","state":"shadow","trial":{}}]}`,
			},
			`{"name":"m","versions":[{"version":"2","state":"shadow","trial":{"rows":40,"errors":3,"shift":0.5,"difference":-0.25,"absoluteDifference":1,"seconds":2.5,"championSeconds":1},
				"places":[{"node":"a","state":"shadow"},{"node":"b","state":"shadow"},{"node":"c","state":"shadow"}]}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all []modelsAt
			for node, text := range c.nodes { // in any order
				all = append(all, modelsAt{node, []*footfallv1.Model{modelOf(t, text)}})
			}
			got := modelsTogether(all, true)
			require.Len(t, got, 1)
			require.True(t, proto.Equal(modelOf(t, c.want), got[0]), "%v", got[0])
		})
	}
}

// threeMembers is a cluster of one that answers, one that does not, and one without devices.
type threeMembers struct{ *newerNode }

func (threeMembers) Members() []cluster.Member {
	return []cluster.Member{
		{Name: "n1", GRPC: "n1:8081", Roles: cluster.RoleShards},
		{Name: "n2", GRPC: "n2:8081", Roles: cluster.RoleInference},
		{Name: "n3", Roles: cluster.RoleInference | cluster.RoleShards},
	}
}

func (c threeMembers) Conn(string) (grpc.ClientConnInterface, error) { return c.newerNode, nil }

// A node without models answers for those that have some, and names who does not answer; one that is asked by another answers for itself.
func TestModelsOfTheCluster(t *testing.T) {
	c := threeMembers{&newerNode{answers: map[string]proto.Message{
		footfallv1.AdminService_ListModels_FullMethodName: &footfallv1.ListModelsResponse{Models: []*footfallv1.Model{
			modelOf(t, `{"name":"m","versions":[{"version":"1","state":"serving","traffic":1,"device":"CPU:0"}]}`),
		}},
	}, asked: map[string][]byte{}}}
	s := serve(t, &scripted{}, func(o *Options) { o.Cluster, o.Identity.Name = c, "n1" })
	list, err := s.ListModels(t.Context(), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"n3"}, list.GetMissing())
	require.Equal(t, "n2/CPU:0", list.GetModels()[0].GetVersions()[0].GetDevice())
	list, err = s.ListModels(metadata.AppendToOutgoingContext(t.Context(), forwardedKey, "n2"), &footfallv1.ListModelsRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetModels())
	require.Empty(t, list.GetMissing())
}
