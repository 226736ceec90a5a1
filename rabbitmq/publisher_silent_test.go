package rabbitmq

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

// An orderly end of a connection is no news of each of its publishers; one whose channel alone is lost is.
func TestPublisherEndsSilently(t *testing.T) {
	r := newPublisherRig(t, sharedBroker(t).URL(), PublisherOptions{})
	var said bytes.Buffer
	r.p.log = slog.New(slog.NewTextHandler(&said, nil))
	require.NoError(t, r.publish(t, "", r.queue, "1").Wait(t.Context()))

	c, err := r.p.Publish(t.Context(), "no such exchange", "", amqp.Publishing{Body: []byte("2")}) // the broker closes the channel
	require.NoError(t, err)
	require.Error(t, c.Wait(t.Context()))
	require.Eventually(t, func() bool { // on another channel
		c, err := r.p.Publish(t.Context(), "", r.queue, amqp.Publishing{Body: []byte("3")})
		return err == nil && c.Wait(t.Context()) == nil
	}, 10*time.Second, time.Millisecond)
	lost := bytes.Count(said.Bytes(), []byte("publishing channel lost"))
	require.Positive(t, lost)

	require.NoError(t, r.conn.Close())
	<-r.p.done
	require.Equal(t, lost, bytes.Count(said.Bytes(), []byte("publishing channel lost")), said.String())
}
