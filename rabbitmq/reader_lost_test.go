package rabbitmq

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages"
)

// cutAtConsume is a connection that breaks when a consumer is asked for, while left lasts.
type cutAtConsume struct {
	net.Conn
	left *atomic.Int32
}

func (c cutAtConsume) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte{0, 60, 0, 20}) && c.left.Add(-1) >= 0 { // basic.consume
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// A reader tries on while its connection comes and goes: only what the broker says is held
// against the log's patience.
func TestReaderOutlivesConnections(t *testing.T) {
	var left atomic.Int32
	o := logOptions(t, sharedBroker(t).URL(), newTopology(1))
	o.Consumers, o.Patience = 1, time.Millisecond
	o.Connection.Dial = func(network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		return cutAtConsume{c, &left}, err
	}
	l := openLog(t, o)
	r, err := l.Open(t.Context(), 0, messages.Mark{})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	var batch messages.RecordBatch
	for _, body := range []string{"before", "after"} {
		require.NoError(t, l.Append(t.Context(), 0, []messages.Record{{Type: messages.EventRecord, Body: []byte(body)}}))
		require.NoError(t, r.Next(t.Context(), &batch))
		require.Equal(t, body, string(batch.Records[0].Body))
		left.Store(3)
		l.consume[0].drop()
	}
}
