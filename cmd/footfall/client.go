package main

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"footfall/messages/footfallv1"
)

// client speaks to one node.
type client struct {
	footfallv1.IngestServiceClient
	footfallv1.CustomerServiceClient
	footfallv1.AdminServiceClient
	conn *grpc.ClientConn
}

// maxMessage bounds an answer: a batch of a thousand customers, or a long history.
const maxMessage = 256 << 20

// dial prepares a connection to the node that --node names. It does not wait for it.
func (a *app) dial() (*client, error) {
	target, doors, err := a.doors()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, append(doors,
		grpc.WithUserAgent("footfall/"+version),
		grpc.WithUnaryInterceptor(withDeadline),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)...)
	if err != nil {
		return nil, usagef("--node %s: it is host:port: %v", a.node, err)
	}
	a.conns = append(a.conns, conn)
	return &client{
		IngestServiceClient:   footfallv1.NewIngestServiceClient(conn),
		CustomerServiceClient: footfallv1.NewCustomerServiceClient(conn),
		AdminServiceClient:    footfallv1.NewAdminServiceClient(conn),
		conn:                  conn,
	}, nil
}

// withDeadline ends a call that has no deadline of its own: a node that hangs is an error, too.
func withDeadline(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}
