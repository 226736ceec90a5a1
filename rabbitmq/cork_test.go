package rabbitmq

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// writes is a connection that keeps what is written to it, piece by piece.
type writes struct {
	net.Conn
	pieces [][]byte
	err    error
	closed bool
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.pieces = append(w.pieces, bytes.Clone(p))
	return len(p), nil
}

func (w *writes) Close() error {
	w.closed = true
	return nil
}

func write(t *testing.T, c *corkedConn, texts ...string) {
	t.Helper()
	for _, text := range texts {
		n, err := c.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
	}
}

func TestCorkedConnWritesInOnePiece(t *testing.T) {
	w := &writes{}
	c := &corkedConn{Conn: w}
	write(t, c, "a", "b")
	require.Equal(t, [][]byte{[]byte("a"), []byte("b")}, w.pieces)
	for range 2 {
		w.pieces = nil
		c.cork()
		write(t, c, "c", "d", "e")
		require.Empty(t, w.pieces)
		require.NoError(t, c.uncork())
		require.Equal(t, [][]byte{[]byte("cde")}, w.pieces)
	}
	w.pieces = nil
	write(t, c, "f")
	require.NoError(t, c.uncork())
	require.Equal(t, [][]byte{[]byte("f")}, w.pieces)
}

func TestCorkedConnHoldsNoMoreThanItMay(t *testing.T) {
	w := &writes{}
	c := &corkedConn{Conn: w}
	c.cork()
	var all []byte
	for i := range 100 {
		piece := bytes.Repeat([]byte{byte(i)}, i*i*10)
		all = append(all, piece...)
		write(t, c, string(piece))
		require.LessOrEqual(t, len(c.held), corkBytes)
	}
	require.NoError(t, c.uncork())
	require.Equal(t, all, bytes.Join(w.pieces, nil))
}

func TestCorkedConnClosesWhereItCannotWrite(t *testing.T) {
	w := &writes{err: errors.New("broken")}
	c := &corkedConn{Conn: w}
	c.cork()
	write(t, c, "a")
	require.False(t, w.closed)
	require.ErrorIs(t, c.uncork(), w.err)
	require.True(t, w.closed)
	require.NoError(t, c.uncork(), "nothing is left to write")
}
