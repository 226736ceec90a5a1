package rabbitmq

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ConnectError says in one line why there is no connection to the broker. It never contains
// the password.
type ConnectError struct {
	// Addr is host and port of the broker.
	Addr string
	// Reason says what is wrong and, where it is known, what to do.
	Reason string
	// Err is the cause; nil where Reason says all of it.
	Err error
}

func (e *ConnectError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("rabbitmq at %s: %s", e.Addr, e.Reason)
	}
	return fmt.Sprintf("rabbitmq at %s: %s: %v", e.Addr, e.Reason, e.Err)
}

func (e *ConnectError) Unwrap() error { return e.Err }

func address(uri amqp.URI) string { return net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)) }

// refusedTLS is said of a broker that ends the connection right after the handshake. In TLS
// 1.3 its verdict on our certificate comes only then, as an alert or, where the reset
// overtakes the alert, as a failed read or write.
const refusedTLS = "the broker refused the TLS connection: it may want a client certificate"

// wasCut says whether the other end closed the connection. reply is what the client makes
// of a failed read: it keeps the text alone, or says of whatever comes next that it is closed.
func wasCut(err error, reply *amqp.Error) bool {
	if reply != nil {
		return reply == amqp.ErrClosed || reply.Reason == io.EOF.Error() || strings.Contains(reply.Reason, "reset by peer")
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// connectError puts what went wrong while connecting into words. dialled says that there
// was a TCP connection, secure that TLS was spoken on it.
func connectError(ctx context.Context, addr, user string, dialled, secure bool, err error) *ConnectError {
	e := &ConnectError{Addr: addr, Err: err}
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		reply     *amqp.Error
	)
	errors.As(err, &reply)
	cut := wasCut(err, reply)
	switch {
	case ctx.Err() != nil && dialled:
		e.Reason, e.Err = "the broker took the connection but did not finish the handshake in time", context.Cause(ctx)
	case errors.As(err, &authority):
		e.Reason = "the broker's certificate is not signed by a known authority: name its CA"
	case errors.As(err, &host):
		e.Reason = "the broker's certificate is for another name"
	case errors.As(err, &invalid), errors.As(err, &verify):
		e.Reason = "the broker's certificate is not valid"
	case errors.As(err, &record):
		e.Reason = "the broker does not speak TLS on this port: use amqp:// or its TLS port"
	case !dialled:
		e.Reason = "no connection"
	case reply == nil && secure && cut:
		e.Reason = refusedTLS
	case reply == nil:
		e.Reason = "handshake failed"
	case reply == amqp.ErrCredentials:
		// The client says so of any connection that ends while it logs in: a broker tells no more of a wrong password.
		e.Reason, e.Err = fmt.Sprintf("the connection ended while user %q logged in: wrong user or password, no access from here, or it was cut", user), nil
	case reply.Code == amqp.AccessRefused:
		// Where the broker has a reason it would only repeat this.
		e.Reason, e.Err = fmt.Sprintf("user %q was refused: wrong user or password, or no access from here", user), nil
	case reply == amqp.ErrVhost || reply.Code == amqp.NotAllowed:
		e.Reason = fmt.Sprintf("the virtual host is not open to user %q", user)
	case reply == amqp.ErrSASL:
		e.Reason = "the broker does not accept this way to log in"
	case strings.Contains(reply.Reason, "tls: "), secure && cut:
		e.Reason = refusedTLS
	case cut || reply.Code == amqp.FrameError:
		e.Reason = "it closed the connection during the handshake: is this the AMQP port, and TLS as the URL says?"
	default:
		e.Reason = "handshake failed"
	}
	return e
}
