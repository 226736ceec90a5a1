package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/messages/footfallv1"
)

func TestHotCustomers(t *testing.T) {
	s := serve(t, &scripted{hot: map[int]actors.Hot{
		0: {Window: 90 * time.Second, Customers: []actors.HotCustomer{{CustomerID: "a", Events: 900, Error: 4}, {CustomerID: "b", Events: 90}}},
		// Nobody is hot after half a second.
		2: {Window: time.Second / 2, Customers: []actors.HotCustomer{{CustomerID: "c", Events: 4}}},
	}})
	r := s.get(t, "/v1/customers:hot")
	require.Equal(t, http.StatusOK, r.code, r.body)
	require.JSONEq(t, `{"customers":[
		{"customer_id":"a","shard":0,"owner":"a","rate":10,"events":900,"error":4},
		{"customer_id":"c","shard":2,"owner":"a","rate":4,"events":4,"error":0},
		{"customer_id":"b","shard":0,"owner":"a","rate":1,"events":90,"error":0}
	],"missing":[1,3]}`, r.body)

	r = s.get(t, "/v1/customers:hot?limit=1&shards=2&shards=3")
	require.JSONEq(t, `{"customers":[{"customer_id":"c","shard":2,"owner":"a","rate":4,"events":4,"error":0}],"missing":[3]}`, r.body)

	list, err := s.ListHotCustomers(t.Context(), &footfallv1.ListHotCustomersRequest{Limit: 2})
	require.NoError(t, err)
	require.Len(t, list.GetCustomers(), 2)

	for query, field := range map[string]string{"limit=1001": "limit", "limit=x": "limit", "shards=4": "shards", "top=3": "top"} {
		r = s.get(t, "/v1/customers:hot?"+query)
		require.Equal(t, http.StatusBadRequest, r.code, query)
		require.Contains(t, r.body, `"field":"`+field+`"`)
	}
}
