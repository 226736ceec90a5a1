package chaos

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A connection through the network is silent in the direction that is closed, and what was sent
// comes when it is open again; packets do not.
func TestNetwork(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the network asks Linux who has connected")
	}
	n := newNetwork(t)
	n.process(os.Getpid(), "a")
	n.sender(netip.MustParseAddr("127.0.0.1"), "a")

	far, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer far.Close()
	at := free(t)
	n.tcp(t, at, "b", far.Addr().String())
	near, err := net.Dial("tcp4", at)
	require.NoError(t, err)
	defer near.Close()
	other, err := far.Accept()
	require.NoError(t, err)
	defer other.Close()
	pass(t, near, other, true)
	pass(t, other, near, true)

	heal := n.cut(direction{"a", "b"})
	pass(t, other, near, true)
	pass(t, near, other, false)
	heal()
	arrives(t, other, true) // late
	heal = n.cut(both("a", "b")...)
	pass(t, near, other, false)
	pass(t, other, near, false)
	heal()
	arrives(t, other, true)
	arrives(t, near, true)
	n.reset("a", "b")
	_, err = other.Read(make([]byte, 1))
	require.Error(t, err)

	sink, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer sink.Close()
	at = free(t)
	n.packets(t, at, "b", sink.LocalAddr().String())
	from, err := net.Dial("udp4", at)
	require.NoError(t, err)
	defer from.Close()
	heal = n.cut(direction{"a", "b"})
	_, err = from.Write([]byte("lost"))
	require.NoError(t, err)
	require.NoError(t, sink.SetReadDeadline(time.Now().Add(quiet)))
	buf := make([]byte, 16)
	_, _, err = sink.ReadFrom(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	heal()
	_, err = from.Write([]byte("here"))
	require.NoError(t, err)
	require.NoError(t, sink.SetReadDeadline(time.Now().Add(time.Minute)))
	size, _, err := sink.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "here", string(buf[:size]))
}

// quiet is how long nothing must come.
const quiet = 100 * time.Millisecond

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// pass sends a byte, and looks whether it arrives.
func pass(t *testing.T, from, to net.Conn, arrived bool) {
	t.Helper()
	_, err := from.Write([]byte{1})
	require.NoError(t, err)
	arrives(t, to, arrived)
}

func arrives(t *testing.T, at net.Conn, arrived bool) {
	t.Helper()
	wait := quiet
	if arrived {
		wait = time.Minute
	}
	require.NoError(t, at.SetReadDeadline(time.Now().Add(wait)))
	_, err := at.Read(make([]byte, 1))
	if arrived {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}
