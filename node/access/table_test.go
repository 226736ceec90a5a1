package access

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoleOfRoute(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		role         Role
		listed       bool
	}{
		{"GET", "/", Open, true},
		{"HEAD", "/healthz", Open, true},
		{"POST", "/healthz", Open, false},
		{"GET", "/metrics", Read, true},
		{"GET", "//metrics", Open, false},
		{"GET", "/metrics/", Open, false},
		{"POST", "/v1/events", Ingest, true},
		{"GET", "/v1/customers/900", Read, true},
		{"GET", "/v1/customers/a:b", Read, true},
		{"GET", "/v1/customers/", Open, false},
		{"GET", "/v1/customers/900/history", Read, true},
		{"GET", "/v1/customers/900/history/x", Open, false},
		{"DELETE", "/v1/customers/900", Open, false},
		{"GET", "/v1/deadletters/3-1-0", Read, true},
		{"POST", "/v1/deadletters/3-1-0:fix", Operate, true},
		{"POST", "/v1/deadletters/:fix", Open, false},
		{"POST", "/v1/deadletters/3-1-0", Open, false},
		{"POST", "/v1/deadletters:drop", Operate, true},
		{"POST", "/v1/cluster/members/n1:drain", Operate, true},
		{"GET", "/v1/cluster/members/n1:drain", Open, false},
		{"GET", "/v2", Read, true},
		{"POST", "/v2/models/a/versions/1/infer", Read, true},
		{"PUT", "/v2/models/a", Open, false},
		{"GET", "/v3", Open, false},
	} {
		role, listed := RoleOfRoute(tt.method, tt.path)
		require.Equal(t, tt.listed, listed, "%s %s", tt.method, tt.path)
		require.Equal(t, tt.role, role, "%s %s", tt.method, tt.path)
	}
}
