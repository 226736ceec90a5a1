package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
)

// customer is what a real fold makes of three events.
func customer(t *testing.T, id string) *actors.Answer {
	t.Helper()
	cal := behavior.NewCalendar(time.UTC)
	var (
		rec behavior.Record
		ev  behavior.Event
	)
	for i, text := range []string{
		`{"event_id":"b1","customer_id":"x","time":"2017-01-01T11:00:00Z","purchase":{"lines":[{"department":"PASTRY","quantity":1,"amount":"0.50","discount":"0.10"},{"department":"DELI","quantity":2,"amount":"12.25"}]}}`,
		`{"event_id":"b2","customer_id":"x","time":"2017-01-08T12:00:00Z","purchase":{"lines":[{"department":"DELI","quantity":1,"amount":"3.00"}]}}`,
		`{"event_id":"p1","customer_id":"x","time":"2017-01-08T13:00:00Z","profile":{"attributes":{"household":"2","age":"35-44"}}}`,
	} {
		e := parsed(t, text)
		require.NoError(t, behavior.Flatten(e, &ev))
		var out behavior.Outcome
		rec, out = behavior.Apply(rec, &ev, cal)
		require.Equal(t, behavior.Applied, out, i)
	}
	return &actors.Answer{
		CustomerID: id, Shard: messages.ShardOf(id, shardsOfTest), Epoch: 1, Record: rec, Next: 42,
		AsOf: time.Date(2017, 1, 10, 0, 0, 0, 0, time.UTC).UnixMilli(),
		Scores: []actors.Score{
			{Model: "churn_risk", Version: "1", Value: 0.1, Epoch: 1, Position: messages.Position{Offset: 41}, Time: 1484000000000},
			{Model: "customer_segmentation", Version: "2", Value: 3, Epoch: 1, Position: messages.Position{Offset: 41}, Time: 1484000000000},
		},
	}
}

type segments struct{}

func (segments) List() []*footfallv1.Model {
	return []*footfallv1.Model{{Name: "churn_risk", Versions: []*footfallv1.ModelVersion{
		{Version: "1", State: "serving", Traffic: 1, Evaluation: map[string]float64{"auc": .872, "average_precision": .58}, Device: "CPU:0", Rows: 1 << 60},
	}}}
}

func (segments) Segment(model, _ string, value float32) string {
	if model == "customer_segmentation" && value == 3 {
		return "weekly family shop"
	}
	return ""
}
func (segments) Devices() []string { return []string{"CPU:0"} }
func (segments) Queries() Queries  { return &scriptedModels{} }

func withRooms(o *Options) {
	o.Models, o.DeadLetters = segments{}, newShelf(
		&footfallv1.DeadLetter{
			Id: "1-7-0", Source: "footfall.events.1", Shard: 1, Offset: 7, Field: "time", Reason: "is required", ContentType: messages.ContentProtobuf,
			Type: messages.TypeEvent, EventId: "e", CustomerId: "900", Body: []byte("\n\x01e\x12\x03900"),
		},
		&footfallv1.DeadLetter{Id: "1-8-0", Source: "footfall.events.1", Shard: 1, Offset: 8, Reason: "unreadable", Body: []byte{0, 1, 0xff}},
	)
}

func TestAnswersAsJSON(t *testing.T) {
	h := &scripted{answer: customer(t, "900"), statuses: []actors.Status{
		{Shard: 0, State: actors.Active, Epoch: 3, Next: 43, Lag: 1, Customers: 7, Resident: 5, ResidentBytes: 5000, Events: 1 << 53, LastTick: "2017-01-09", LastCheckpoint: time.Unix(1484000000, 0)},
		{Shard: 1, State: actors.Failed, Err: &messages.LogGapError{Shard: 1, Want: 3, First: 9}, LastTick: "2017-01-08"},
	}}
	s := serve(t, h, withRooms)
	for name, path := range map[string]string{
		"customer.json":    "/v1/customers/900",
		"cluster.json":     "/v1/cluster",
		"shards.json":      "/v1/shards",
		"models.json":      "/v1/models",
		"deadletters.json": "/v1/deadletters?limit=1&reason=TIME:%20is",
		"deadletter.json":  "/v1/deadletters/1-7-0",
		"readyz.json":      "/readyz",
		"healthz.json":     "/healthz",
	} {
		t.Run(name, func(t *testing.T) {
			r := s.get(t, path)
			require.Equal(t, http.StatusOK, r.code, r.body)
			require.Equal(t, "application/json", r.header.Get("Content-Type"))
			golden(t, name, indent(t, []byte(r.body)))
		})
	}
	t.Run("batch", func(t *testing.T) {
		r := s.post(t, "/v1/customers:batchGet", `{"customer_ids":["nobody","900"],"at":"2017-01-10T12:00:00Z"}`)
		require.Equal(t, http.StatusOK, r.code, r.body)
		golden(t, "batch.json", indent(t, []byte(r.body)))
	})
	t.Run("a later time", func(t *testing.T) {
		r := s.get(t, "/v1/customers/900?at=2017-01-20T00:00:00Z")
		require.Contains(t, r.body, `"as_of":{"time":"2017-01-20T00:00:00Z","offset":41,"stale_ms":0}`)
		require.Contains(t, r.body, `"features":{"recency_days":11.5,"visit_days_7":0,`)
	})
	t.Run("clock", func(t *testing.T) {
		for _, mode := range []string{"wall", "driven", "CLOCK_MODE_WALL"} {
			r := s.post(t, "/v1/clock:set", `{"mode":"`+mode+`"}`)
			require.Equal(t, http.StatusOK, r.code, r.body)
		}
		for _, date := range []string{"1970-01-01", "2017-01-01", "2026-03-01"} {
			r := s.post(t, "/v1/clock:tick", `{"date":"`+date+`"}`)
			require.Equal(t, http.StatusOK, r.code, r.body)
			require.JSONEq(t, `{"appended":true}`, r.body)
		}
	})
}

func TestErrorsOfCalls(t *testing.T) {
	rejected := &actors.RejectedError{EventID: "e", Fault: messages.Fault{Field: "time", Reason: "is required"}}
	for _, tt := range []struct {
		name, method, path, body string
		host                     *scripted
		code                     int
		want                     Error
	}{
		{"nobody", "GET", "/v1/customers/nobody", "", &scripted{}, 404, Error{"not_found", `customer "nobody": no event was ever seen`, ""}},
		{"rejected", "GET", "/v1/customers/900?wait_for=e", "", &scripted{waitErr: rejected}, 409, Error{"aborted", `event "e" was rejected: time: is required`, "time"}},
		{"busy", "GET", "/v1/customers/900", "", &scripted{askErr: &actors.BusyError{Shard: 2}}, 429, Error{"resource_exhausted", "shard 2 has too many queries in flight: try again", ""}},
		{"not active", "GET", "/v1/customers/900", "", &scripted{askErr: &actors.NotActiveError{Shard: 2, State: actors.Recovering}}, 503, Error{"unavailable", "shard 2 is recovering", ""}},
		{"corrupt", "GET", "/v1/customers/900", "", &scripted{askErr: &messages.CorruptError{What: "log", Reason: "sum"}}, 500, Error{"data_loss", "corrupt: log: sum", ""}},
		{"a bug", "GET", "/v1/customers/900", "", &scripted{askErr: errors.New("surprise")}, 500, Error{"internal", "surprise", ""}},
		{"a panic", "GET", "/v1/customers/900", "", &scripted{panics: true}, 500, Error{"internal", "the node failed on this call; its log says more", ""}},
		{"at", "GET", "/v1/customers/900?at=2017-01-08T12:59:59Z", "", &scripted{}, 400, Error{"invalid_argument", `at: must not be before 2017-01-08T13:00:00Z, the latest event of customer "900"`, "at"}},
		{"at far away", "GET", "/v1/customers/900?at=2300-01-01T00:00:00Z", "", &scripted{}, 400, Error{"invalid_argument", "at: must not be after 2200", "at"}},
		{"at unreadable", "GET", "/v1/customers/900?at=tomorrow", "", &scripted{}, 400, Error{"invalid_argument", `at: must be a time such as "2017-01-01T11:53:26Z", not "tomorrow"`, "at"}},
		{"unknown parameter", "GET", "/v1/customers/900?wait=e", "", &scripted{}, 400, Error{"invalid_argument", "wait: no such parameter: the call takes wait_for, at, explain, allow_stale", "wait"}},
		{"a call without parameters", "GET", "/v1/shards?limit=5", "", &scripted{}, 400, Error{"invalid_argument", "limit: no such parameter: the call takes none", "limit"}},
		{"the first of many", "GET", "/v1/cluster?b=1&a", "", &scripted{}, 400, Error{"invalid_argument", "a: no such parameter: the call takes none", "a"}},
		{"parameters of a body's call", "POST", "/v1/clock:tick?date=2017-01-01", "{}", &scripted{}, 400, Error{"invalid_argument", "date: no such parameter: the call takes none", "date"}},
		{"parameters of events", "POST", "/v1/events?producer=x", visit("e", "1"), &scripted{}, 400, Error{"invalid_argument", "producer: no such parameter: the call takes none", "producer"}},
		{"parameters of no path", "GET", "/v1/nothing?a=1", "", &scripted{}, 404, Error{"not_found", "there is nothing at /v1/nothing: /openapi.json lists all calls", ""}},
		{"the path's field", "GET", "/v1/customers/900?customer_id=901", "", &scripted{}, 400, Error{"invalid_argument", "customer_id: no such parameter: the call takes wait_for, at, explain, allow_stale", "customer_id"}},
		{"twice", "GET", "/v1/customers/900?wait_for=a&wait_for=b", "", &scripted{}, 400, Error{"invalid_argument", "wait_for: is given twice", "wait_for"}},
		{"limit", "GET", "/v1/customers/900/history?limit=x", "", &scripted{}, 400, Error{"invalid_argument", `limit: must be a whole number, 0 or more, not "x"`, "limit"}},
		{"limit too high", "GET", "/v1/deadletters?limit=10001", "", &scripted{}, 400, Error{"invalid_argument", "limit: must be at most 10000", "limit"}},
		{"slash", "GET", "/v1/customers/a%2Fb", "", &scripted{}, 400, Error{"invalid_argument", `customer_id: must not contain "/"`, "customer_id"}},
		{"control character", "GET", "/v1/customers/a%0Ab", "", &scripted{}, 400, Error{"invalid_argument", "customer_id: must not contain control characters", "customer_id"}},
		{"not UTF-8", "GET", "/v1/customers/%ff", "", &scripted{}, 400, Error{"invalid_argument", "customer_id: is not valid UTF-8", "customer_id"}},
		{"no ID", "GET", "/v1/customers/", "", &scripted{}, 400, Error{"invalid_argument", "customer_id: is required", "customer_id"}},
		{"dots", "GET", "/v1/customers/%2e%2e", "", &scripted{}, 400, Error{"invalid_argument", `customer_id: must not be "." or ".."`, "customer_id"}},
		{"no such path", "GET", "/v1/nothing", "", &scripted{}, 404, Error{"not_found", "there is nothing at /v1/nothing: /openapi.json lists all calls", ""}},
		{"no such page", "GET", "/nothing", "", &scripted{}, 404, Error{"not_found", "there is nothing at /nothing: /openapi.json lists all calls", ""}},
		{"wrong method", "DELETE", "/v1/customers/900", "", &scripted{}, 405, Error{"method_not_allowed", "DELETE is not what /v1/customers/900 takes", ""}},
		{"wrong method of a page", "POST", "/metrics", "", &scripted{}, 405, Error{"method_not_allowed", "POST is not what /metrics takes", ""}},
		{"no customers", "POST", "/v1/customers:batchGet", `{}`, &scripted{}, 400, Error{"invalid_argument", "customer_ids: must name 1 to 1000 customers, not 0", "customer_ids"}},
		{"one is faulty", "POST", "/v1/customers:batchGet", `{"customer_ids":["1","a/b"]}`, &scripted{}, 400, Error{"invalid_argument", `customer_ids[1]: must not contain "/"`, "customer_ids[1]"}},
		{"one is there twice", "POST", "/v1/customers:batchGet", `{"customer_ids":["1","1"]}`, &scripted{}, 400, Error{"invalid_argument", "customer_ids[1]: names the customer of customer_ids[0] again", "customer_ids[1]"}},
		{"unknown field", "POST", "/v1/customers:batchGet", `{"ids":[]}`, &scripted{}, 400, Error{"invalid_argument", "ids: no such field", "ids"}},
		{"field of another case", "POST", "/v1/customers:batchGet", `{"CustomerIds":[]}`, &scripted{}, 400, Error{"invalid_argument", "CustomerIds: no such field: did you mean customer_ids?", "CustomerIds"}},
		{"field that is no name", "POST", "/v1/clock:tick", `{"a \"b\": c":1}`, &scripted{}, 400, Error{"invalid_argument", `"a \"b\": c": no such field`, `"a \"b\": c"`}},
		{"field twice", "POST", "/v1/clock:set", `{"mode":"wall","mode":"driven"}`, &scripted{}, 400, Error{"invalid_argument", "mode: is given twice", "mode"}},
		{"a number for an ID", "POST", "/v1/customers:batchGet", `{"customer_ids":["1",900]}`, &scripted{}, 400, Error{"invalid_argument", "customer_ids[1]: must be a string, not the number 900", "customer_ids[1]"}},
		{"no time", "POST", "/v1/customers:batchGet", `{"customer_ids":["1"],"at":"noon"}`, &scripted{}, 400, Error{"invalid_argument", `at: must be a time such as "2017-01-01T11:53:26Z", not "noon"`, "at"}},
		{"a number for a date", "POST", "/v1/clock:tick", `{"date":20170101}`, &scripted{}, 400, Error{"invalid_argument", "date: must be a string, not the number 20170101", "date"}},
		{"an array for a mode", "POST", "/v1/clock:set", `{"mode":["wall"]}`, &scripted{}, 400, Error{"invalid_argument", "mode: must be a word, not an array", "mode"}},
		{"no object", "POST", "/v1/clock:tick", `["2017-01-01"]`, &scripted{}, 400, Error{"invalid_argument", "body: must be an object, not an array", "body"}},
		{"truncated", "POST", "/v1/clock:tick", `{"date":"2017-`, &scripted{}, 400, Error{"invalid_argument", "body: malformed JSON at byte 14: the body is truncated", "body"}},
		{"mode", "POST", "/v1/clock:set", `{"mode":"sun"}`, &scripted{}, 400, Error{"invalid_argument", `mode: must be wall or driven, not "sun"`, "mode"}},
		{"no mode", "POST", "/v1/clock:set", `{}`, &scripted{}, 400, Error{"invalid_argument", "mode: must be wall or driven", "mode"}},
		{"date", "POST", "/v1/clock:tick", `{"date":"1.1.2017"}`, &scripted{}, 400, Error{"invalid_argument", `date: must be a day such as "2017-01-31", not "1.1.2017"`, "date"}},
		{"a date that has not begun", "POST", "/v1/clock:tick", `{"date":"2026-03-02"}`, &scripted{}, 400, Error{"invalid_argument", "date: must not be after 2026-03-01, which is today in UTC: 2026-03-02 has not begun", "date"}},
		{"a date far ahead", "POST", "/v1/clock:tick", `{"date":"9999-12-31"}`, &scripted{}, 400, Error{"invalid_argument", "date: must not be after 2026-03-01, which is today in UTC: 9999-12-31 has not begun", "date"}},
		{"a date before all", "POST", "/v1/clock:tick", `{"date":"1969-12-31"}`, &scripted{}, 400, Error{"invalid_argument", "date: must not be before 1970-01-01, not 1969-12-31", "date"}},
		{"tick under a wall clock", "POST", "/v1/clock:tick", `{"date":"2017-01-01"}`, &scripted{tickErr: actors.ErrClock}, 400, Error{"failed_precondition", actors.ErrClock.Error(), ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.host
			h.answer = customer(t, "900")
			s := serve(t, h)
			r := s.do(t, tt.method, tt.path, typeJSON, strings.NewReader(tt.body))
			require.Equal(t, tt.code, r.code, r.body)
			require.Equal(t, tt.want, r.err(t))
			require.Equal(t, tt.code == 405, r.header.Get("Allow") == "GET, HEAD")
			if tt.code == 429 || tt.code == 503 {
				require.Equal(t, "1", r.header.Get("Retry-After"))
			}
		})
	}
}

func TestAnyCustomerIDHasItsPath(t *testing.T) {
	for _, id := range []string{
		"900", "a b", "a+b", "a:b", "x:batchGet", "ünï-çødé", "日本", "100%", "%2F", "%25", "a?b", "a#b", "a&b=c",
		"a;b", "history", "...", "a\\b", "'\"<>", "a@b.example", "~", "customers",
	} {
		t.Run(id, func(t *testing.T) {
			h := &scripted{answer: customer(t, id)}
			s := serve(t, h)
			for _, path := range []string{url.PathEscape(id), hex(id)} {
				r := s.get(t, "/v1/customers/"+path)
				require.Equal(t, http.StatusOK, r.code, r.body)
				var got struct {
					CustomerID string `json:"customer_id"`
				}
				require.NoError(t, json.Unmarshal([]byte(r.body), &got))
				require.Equal(t, id, got.CustomerID)
				require.Equal(t, http.StatusOK, s.get(t, "/v1/customers/"+path+"/history").code)
			}
		})
	}
}

// hex escapes every byte.
func hex(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

func TestDeadlines(t *testing.T) {
	h := &scripted{answer: customer(t, "900")}
	s := serve(t, h, func(o *Options) { o.Limits.Query = 20 * time.Millisecond })
	r := s.get(t, "/v1/customers/900?wait_for=never")
	require.Equal(t, http.StatusGatewayTimeout, r.code, r.body)
	require.Equal(t, Error{"deadline_exceeded", `event "never" of customer "900" was not applied: not done within the deadline`, ""}, r.err(t))

	// A client's own is kept, shorter or longer.
	s = serve(t, h, func(o *Options) { o.Limits.Query = time.Hour })
	r = s.do(t, "GET", "/v1/customers/900?wait_for=never", "", nil, "Grpc-Timeout", "20m")
	require.Equal(t, http.StatusGatewayTimeout, r.code, r.body)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := s.GetCustomer(ctx, &footfallv1.GetCustomerRequest{CustomerId: "900", WaitFor: "never"})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

func TestErrorsByGRPC(t *testing.T) {
	h := &scripted{
		answer:  customer(t, "900"),
		waitErr: &actors.RejectedError{EventID: "e", Fault: messages.Fault{Field: "time", Reason: "is required"}},
	}
	s := serve(t, h)
	_, err := s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "900", WaitFor: "e"})
	st := status.Convert(err)
	require.Equal(t, codes.Aborted, st.Code())
	bad, ok := st.Details()[0].(*errdetails.BadRequest)
	require.True(t, ok)
	require.Equal(t, "time", bad.GetFieldViolations()[0].GetField())

	h.askErr = &actors.BusyError{Shard: 1}
	_, err = s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "900"})
	st = status.Convert(err)
	require.Equal(t, codes.ResourceExhausted, st.Code())
	require.IsType(t, &errdetails.RetryInfo{}, st.Details()[0])

	h.askErr, h.panics = nil, true
	_, err = s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "900"})
	require.Equal(t, codes.Internal, status.Code(err))
	h.panics = false
	_, err = s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "900"})
	require.NoError(t, err, "one bad call ends nothing")
	require.Equal(t, map[string]float64{"": 1}, s.series(t, "footfall_api_panics_total"))

	_, err = s.GetCustomer(t.Context(), &footfallv1.GetCustomerRequest{CustomerId: "900", At: &timestamppb.Timestamp{Nanos: -1}})
	require.Equal(t, "at: is no valid time", status.Convert(err).Message())
	_, err = s.Publish(t.Context(), &footfallv1.EventBatch{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = s.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{{EventId: strings.Repeat("x", 2<<20)}}})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "beyond the largest message")
}

func TestPublishByGRPC(t *testing.T) {
	h := &scripted{}
	s := serve(t, h)
	r, err := s.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{
		parsed(t, visit("e1", "900")), {EventId: "e2", CustomerId: "\xff"}, parsed(t, visit("e3", "901")),
	}})
	if err == nil {
		require.Equal(t, uint32(2), r.GetAccepted())
		require.Equal(t, uint32(1), r.GetRejected()[0].GetIndex())
		require.Equal(t, "customer_id", r.GetRejected()[0].GetField())
		return
	}
	// This client refuses to send what is not UTF-8; others are less careful.
	r, err = s.Publish(t.Context(), &footfallv1.EventBatch{Events: []*footfallv1.Event{
		parsed(t, visit("e1", "900")), {EventId: "e2", CustomerId: "a/b"}, parsed(t, visit("e3", "901")),
	}})
	require.NoError(t, err)
	require.Equal(t, uint32(2), r.GetAccepted())
	require.Len(t, r.GetRejected(), 1)
	require.Equal(t, "customer_id", r.GetRejected()[0].GetField())
}

func TestVerifyStreams(t *testing.T) {
	differences := make([]actors.Difference, maxDifferences+3)
	h := &scripted{verified: &actors.Verified{Events: 5, Customers: 2, Next: 9, Differences: differences}}
	s := serve(t, h)
	stream, err := s.Verify(t.Context(), &footfallv1.VerifyRequest{Shards: []uint32{3, 1, 3}})
	require.NoError(t, err)
	var got []*footfallv1.VerifyProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		got = append(got, p)
	}
	require.Len(t, got, 2)
	require.Equal(t, uint32(1), got[0].GetShard())
	require.Equal(t, []uint32{2, 2}, []uint32{got[1].GetDone(), got[1].GetTotal()})
	require.Len(t, got[0].GetDifferences(), maxDifferences+1)
	require.Equal(t, "and 3 more", got[0].GetDifferences()[maxDifferences])

	stream, err = s.Verify(t.Context(), &footfallv1.VerifyRequest{Shards: []uint32{shardsOfTest}})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, "shards: must be from 0 to 3, not 4", status.Convert(err).Message())
}

func TestHealthAndReflection(t *testing.T) {
	s := serve(t, &scripted{}, func(o *Options) {
		o.Ready = func() Readiness { return Readiness{Reasons: []string{"shard 1 is recovering"}} }
	})
	hc := healthpb.NewHealthClient(s.conn)
	check := func() healthpb.HealthCheckResponse_ServingStatus {
		r, err := hc.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "footfall.v1.CustomerService"})
		require.NoError(t, err)
		return r.GetStatus()
	}
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, check())
	s.api.SetReady(true)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, check())

	r := s.get(t, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, r.code)
	require.JSONEq(t, `{"ready":false,"reasons":["shard 1 is recovering"]}`, r.body)

	stream, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	list, err := stream.Recv()
	require.NoError(t, err)
	var names []string
	for _, svc := range list.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	require.Subset(t, names, []string{"footfall.v1.IngestService", "footfall.v1.CustomerService", "footfall.v1.AdminService", "grpc.health.v1.Health"})
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.ErrorIs(t, err, io.EOF)
}

func TestPagesOfOtherOriginsDoNotWrite(t *testing.T) {
	s := serve(t, &scripted{})
	r := s.do(t, "POST", "/v1/events", typeJSON, strings.NewReader(visit("e", "1")), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, r.code)
	require.Equal(t, "permission_denied", r.err(t).Code)
}

func TestPages(t *testing.T) {
	s := serve(t, &scripted{})
	r := s.get(t, "/")
	require.Equal(t, http.StatusOK, r.code)
	require.Contains(t, r.body, `node <strong>a</strong>, version v-test, gRPC at <code>127.0.0.1:8081</code>`)
	require.Equal(t, "text/html; charset=utf-8", r.header.Get("Content-Type"))
	// A browser runs what has the digest that the policy names, and asks this node only.
	policy := r.header.Get("Content-Security-Policy")
	for _, element := range []string{"style", "script"} {
		text := regexp.MustCompile(`(?s)<` + element + `>(.*?)</` + element + `>`).FindStringSubmatch(r.body)
		require.NotNil(t, text, element)
		sum := sha256.Sum256([]byte(text[1]))
		require.Contains(t, policy, element+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "connect-src 'self'")
	require.NotRegexp(t, `(src|href)="?(https?:)?//`, r.body)
	for _, path := range regexp.MustCompile(`['"](/(?:v1|[a-z]+z|metrics|openapi)[^'"]*[^/])['"]`).FindAllStringSubmatch(r.body, -1) {
		if path[1] != "/history" {
			require.Equal(t, http.StatusOK, s.get(t, path[1]).code, path[1])
		}
	}

	require.Equal(t, http.StatusOK, s.do(t, "HEAD", "/v1/shards", "", nil).code)

	s.get(t, "/v1/customers/900")
	r = s.get(t, "/metrics")
	require.Contains(t, r.body, `footfall_query_seconds_count{method="GetCustomer",where="owner"} 1`)
	require.Contains(t, r.body, `footfall_query_seconds_count{method="GetHistory",where="owner"} 0`)
	require.Contains(t, r.body, `footfall_build_info{go="go`)
	require.Contains(t, r.body, `footfall_cluster_members{state="draining"} 0`)
}

func TestOpenAPISaysWhatIsThere(t *testing.T) {
	s := serve(t, &scripted{}, withRooms)
	r := s.get(t, "/openapi.json")
	require.Equal(t, http.StatusOK, r.code)
	var doc struct {
		Info        map[string]string
		Paths       map[string]map[string]any
		Definitions map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(r.body), &doc))
	require.Equal(t, "v-test", doc.Info["version"])
	require.False(t, strings.Contains(r.body, "rpcStatus"), "errors are ours")         //nolint:testifylint // the body is long
	require.False(t, strings.Contains(r.body, "CLOCK_MODE_"), "words are as answered") //nolint:testifylint // the body is long
	require.Contains(t, doc.Paths, "/v1/events")
	for path, item := range doc.Paths {
		for method := range item {
			got := s.do(t, strings.ToUpper(method), strings.NewReplacer("{customer_id}", "x", "{id}", "x").Replace(path), typeJSON, strings.NewReader("{}"))
			require.NotContains(t, []int{http.StatusMethodNotAllowed}, got.code, path)
			if got.code == http.StatusNotFound {
				require.Regexp(t, `^(customer "x": no event was ever seen|there is no dead letter "x")$`, got.err(t).Message, path)
			}
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			if v["type"] == "string" {
				require.NotContains(t, []any{"int64", "uint64"}, v["format"])
			}
			if ref, ok := v["$ref"].(string); ok {
				require.Contains(t, doc.Definitions, strings.TrimPrefix(ref, "#/definitions/"))
			}
			for _, x := range v {
				walk(x)
			}
		}
	}
	var whole any
	require.NoError(t, json.Unmarshal([]byte(r.body), &whole))
	walk(whole)
}

func TestRates(t *testing.T) {
	var r Rates
	require.Zero(t, r.Of(0).Events)
	start := time.Unix(0, 0)
	for i := range 30 {
		r.Sample(start.Add(time.Duration(i)*time.Second), []actors.Status{{Shard: 0, Events: uint64(i * 100)}, {Shard: 1, Events: uint64(max(0, i-24) * 50)}})
	}
	require.InDelta(t, 100, r.Of(0).Events, 1e-9)
	require.InDelta(t, 25, r.Of(1).Events, 1e-9, "five of the last ten seconds")
	require.Zero(t, r.Of(2).Events)
	require.LessOrEqual(t, len(r.samples), 12)
}
