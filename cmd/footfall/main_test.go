package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"footfall/messages/footfallv1"
	"footfall/node"
	"footfall/node/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	text.DisableColors()
	goleak.VerifyTestMain(m)
}

// now is the clock of commands under test.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// result is what a command did.
type result struct {
	code     int
	out, err string
}

// footfall runs one command line.
func footfall(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(in), &out, &errs, func(string) string { return "" })
	a.now = func() time.Time { return now }
	code := run(t.Context(), a, args)
	return result{code, out.String(), errs.String()}
}

// golden compares text with a file below testdata.
func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(have), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "make it with -update")
	require.Equal(t, string(want), have, "if this is right, write it anew with -update")
}

// fake serves what its functions answer; any other call is not implemented.
type fake struct {
	footfallv1.UnimplementedIngestServiceServer
	footfallv1.UnimplementedCustomerServiceServer
	footfallv1.UnimplementedAdminServiceServer

	cluster *footfallv1.Cluster
	shards  *footfallv1.ListShardsResponse
	// looks is called before shards are listed.
	looks    func()
	hot      *footfallv1.ListHotCustomersResponse
	models   *footfallv1.ListModelsResponse
	letters  *footfallv1.ListDeadLettersResponse
	customer *footfallv1.Customer
	history  *footfallv1.GetHistoryResponse
	verify   []*footfallv1.VerifyProgress
	asked    *footfallv1.GetCustomerRequest
	// explanation is added where one is asked for.
	explanation *footfallv1.Explanation
	// waited is told of each WaitIdle.
	waited func(scored bool)
	// mute answers no questions, as a node that is shown a token for ingest alone.
	mute bool
}

func (f *fake) GetCluster(context.Context, *footfallv1.GetClusterRequest) (*footfallv1.Cluster, error) {
	if f.mute {
		return nil, status.Error(codes.PermissionDenied, "the token lacks the role read: it has ingest")
	}
	return f.cluster, nil
}

func (f *fake) Publish(_ context.Context, b *footfallv1.EventBatch) (*footfallv1.PublishResponse, error) {
	return &footfallv1.PublishResponse{Accepted: uint32(len(b.GetEvents()))}, nil
}

func (f *fake) DrainMember(_ context.Context, r *footfallv1.DrainMemberRequest) (*footfallv1.DrainMemberResponse, error) {
	for _, m := range f.cluster.GetMembers() {
		if m.GetName() == r.GetMember() {
			m.State = "draining"
			return &footfallv1.DrainMemberResponse{}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no member %q is there: footfall cluster lists them", r.GetMember())
}

func (f *fake) ListShards(context.Context, *footfallv1.ListShardsRequest) (*footfallv1.ListShardsResponse, error) {
	if f.looks != nil {
		f.looks()
	}
	return f.shards, nil
}

func (f *fake) ListHotCustomers(context.Context, *footfallv1.ListHotCustomersRequest) (*footfallv1.ListHotCustomersResponse, error) {
	return f.hot, nil
}

func (f *fake) ListModels(context.Context, *footfallv1.ListModelsRequest) (*footfallv1.ListModelsResponse, error) {
	return f.models, nil
}

func (f *fake) ListDeadLetters(context.Context, *footfallv1.ListDeadLettersRequest) (*footfallv1.ListDeadLettersResponse, error) {
	return f.letters, nil
}

func (f *fake) GetCustomer(_ context.Context, r *footfallv1.GetCustomerRequest) (*footfallv1.Customer, error) {
	f.asked = r
	c := proto.CloneOf(f.customer)
	if r.GetExplain() != "" {
		c.Explanation = f.explanation
	}
	if r.GetAllowStale() {
		c.AsOf.StaleMs = 2500
	}
	return c, nil
}

func (f *fake) BatchGetCustomers(_ context.Context, r *footfallv1.BatchGetCustomersRequest) (*footfallv1.BatchGetCustomersResponse, error) {
	answer := &footfallv1.BatchGetCustomersResponse{}
	for _, id := range r.GetCustomerIds() {
		if id == f.customer.GetCustomerId() {
			answer.Customers = append(answer.Customers, f.customer)
		} else {
			answer.NotFound = append(answer.NotFound, id)
		}
	}
	return answer, nil
}

func (f *fake) WaitIdle(_ context.Context, r *footfallv1.WaitIdleRequest) (*footfallv1.WaitIdleResponse, error) {
	f.waited(r.GetScored())
	return &footfallv1.WaitIdleResponse{}, nil
}

func (f *fake) GetHistory(context.Context, *footfallv1.GetHistoryRequest) (*footfallv1.GetHistoryResponse, error) {
	return f.history, nil
}

func (f *fake) Verify(_ *footfallv1.VerifyRequest, s grpc.ServerStreamingServer[footfallv1.VerifyProgress]) error {
	for _, p := range f.verify {
		if err := s.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// serve returns the address of a fake node.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	footfallv1.RegisterIngestServiceServer(s, f)
	footfallv1.RegisterCustomerServiceServer(s, f)
	footfallv1.RegisterAdminServiceServer(s, f)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-ended)
	})
	return l.Addr().String()
}

// realNode starts a node in this process, without models, and returns its gRPC address and
// what stops it.
func realNode(t *testing.T, dir string, clock footfallv1.ClockMode, shards ...int) (addr string, stop func()) {
	t.Helper()
	c := config.Default()
	c.Name, c.Roles = "test", config.Roles{config.RoleShards}
	c.HTTPListen, c.GRPCListen = "127.0.0.1:0", "127.0.0.1:0"
	c.LogDir, c.StoreDir = filepath.Join(dir, "log"), filepath.Join(dir, "store")
	c.ModelsDir = filepath.Join(dir, "models")
	c.Shards, c.Clock = 4, clock
	if len(shards) > 0 {
		c.Shards = shards[0]
	}
	n, err := node.New(node.Options{
		Config: c, Version: "test", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // the node outlives the test's context, until its cleanup
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			require.NoError(t, <-ended)
		}
	}
	t.Cleanup(stop)

	d := demo{app: newApp(nil, io.Discard, io.Discard, os.Getenv)}
	d.app.node = n.GRPCAddr()
	d.client, err = d.dial()
	require.NoError(t, err)
	defer d.close()
	require.NoError(t, d.awaitNode(t.Context()))
	return n.GRPCAddr(), stop
}
