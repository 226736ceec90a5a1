package main

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

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
	conn, err := grpc.NewClient(a.node,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("footfall/"+version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
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
